"""`raincheck init` and `raincheck schema`: what it writes is served as it is, and editors know every key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from mcp import Client, StdioServerParameters, stdio_client

from raincheck.cli.schema import SCHEMA_FILE
from raincheck.client import TaskPoller
from raincheck.config.settings import SECTION_MODELS
from support.command_line import CommandLine

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def validator(raincheck: CommandLine) -> Draft7Validator:
    schema = raincheck("schema").json
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def errors(validator: Draft7Validator, file: str) -> list[str]:
    found = validator.iter_errors(tomllib.loads(file))  # pyright: ignore[reportUnknownMemberType]
    return [f"{each.json_path}: {each.message}" for each in found]


def uncomment(file: Path) -> None:
    file.write_text(re.sub(r"^# (?=\[.*\]$|[a-z_]+ = )", "", file.read_text(), flags=re.MULTILINE))


def test_what_init_writes_passes_the_check(raincheck: CommandLine, tmp_path: Path) -> None:
    said = raincheck("init", "tools")

    assert (said.code, said.err) == (0, "")
    names = {"raincheck.toml", "slow_tools.py", SCHEMA_FILE}
    assert {each.name for each in (tmp_path / "tools").iterdir()} == names
    assert all(f"tools/{name}" in said.out for name in names)
    checked = raincheck("check", "tools/raincheck.toml", "--json").json
    assert [each["operation_type"] for each in checked["operations"]] == ["count_words"]
    assert checked["warnings"] == []


async def test_what_init_writes_is_served(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    subprocess.run([sys.executable, "-m", "raincheck", "init"], cwd=tmp_path, env=environment, check=True)
    served = StdioServerParameters(
        command=sys.executable, args=["-m", "raincheck", "serve"], cwd=tmp_path, env=environment
    )
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(served, errlog=log)) as client:
            result = await TaskPoller().run(client, "count_words", {"pages": ["a slow tool"]})
    assert result.value == {"pages": 1, "words": 3}


def test_what_init_leaves_as_comments_can_be_served_too(raincheck: CommandLine, tmp_path: Path) -> None:
    assert raincheck("init").code == 0
    uncomment(tmp_path / "raincheck.toml")

    checked = raincheck("check", "--json").json
    assert checked["ok"], checked
    assert [each["kind"] for each in checked["operations"]] == ["python", "command", "http"]
    assert checked["server"]["transport"] == "streamable-http"


async def test_the_command_that_init_leaves_as_a_comment_finds_the_files_beside_it(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "RAINCHECK_SERVER__TRANSPORT": "stdio"}
    command = [sys.executable, "-m", "raincheck"]
    subprocess.run([*command, "init"], cwd=tmp_path, env=environment, check=True)
    uncomment(tmp_path / "raincheck.toml")
    served = StdioServerParameters(command=command[0], args=[*command[1:], "serve"], cwd=tmp_path, env=environment)
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(served, errlog=log)) as client:
            result = await TaskPoller().run(client, "checksum", {"file": "slow_tools.py"})
    assert str(result.value).split()[1:] == [str((tmp_path / "slow_tools.py").stat().st_size), "slow_tools.py"]


@pytest.mark.parametrize("name", ["raincheck.toml", "slow_tools.py", SCHEMA_FILE])
def test_init_overwrites_nothing(raincheck: CommandLine, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("nowhere")

    said = raincheck("init")

    assert said.code == 2
    assert said.err == f"raincheck: {name} is there already, and nothing was written: choose another folder\n"
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_init_says_where_it_cannot_write(raincheck: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    said = raincheck("init", "file/tools")

    assert (said.code, said.err) == (1, "raincheck: cannot write into file/tools: Not a directory\n")


def test_the_schema_that_init_names_lies_beside_its_file(raincheck: CommandLine, tmp_path: Path) -> None:
    assert raincheck("init").code == 0

    first = (tmp_path / "raincheck.toml").read_text().splitlines()[0]

    assert first.removeprefix("#:schema ") == SCHEMA_FILE
    assert json.loads((tmp_path / SCHEMA_FILE).read_text()) == raincheck("schema").json


def test_the_schema_takes_every_example(validator: Draft7Validator) -> None:
    files = [file for file in EXAMPLES.rglob("*.toml") if "pyproject" not in file.name]
    assert EXAMPLES / "raincheck.toml" in files

    assert {str(file): errors(validator, file.read_text()) for file in files} == {str(file): [] for file in files}


@pytest.mark.parametrize(
    "wrong",
    [
        "[sever]",
        "[server]\nprot = 1",
        '[server]\nport = "8000"',
        "[execution]\nmax_concurrency = -1",
        '[state]\nprovider = "oracle"',
        '[operations.x]\nkind = "shell"',
        '[operations.x]\nkind = "command"',
        '[operations.x]\nkind = "python"\ntarget = "a:b"\nargv = ["x"]',
        '[operations.x]\nkind = "http"\nurl = "http://a"\n[operations.x.poll]\nstat = "$.x"',
    ],
)
def test_the_schema_refuses_what_the_start_would_refuse(
    validator: Draft7Validator, raincheck: CommandLine, tmp_path: Path, wrong: str
) -> None:
    assert errors(validator, wrong)
    (tmp_path / "raincheck.toml").write_text(wrong)
    assert raincheck("check").code == 2


def test_the_schema_says_what_each_key_is_and_knows_no_null(raincheck: CommandLine) -> None:
    schema: dict[str, Any] = raincheck("schema").json

    assert list(schema["properties"]) == [*SECTION_MODELS, "operations"]
    assert '"null"' not in json.dumps(schema)
    for table in schema["definitions"].values():
        assert all("description" in key or "$ref" in key for key in table["properties"].values())
