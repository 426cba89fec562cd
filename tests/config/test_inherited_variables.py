"""`inherit`: which variables of the server its children find; secrets of the configuration are none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from operations.running import context_for

from raincheck.composition.operations import make_operations
from raincheck.config.loading import load_settings
from raincheck.errors import ConfigurationError

COMMAND = '[operations.a]\nkind = "command"\nargv = ["env"]\ndescription = "Shows."\n'
HTTP = '[operations.b]\nkind = "http"\nurl = "http://127.0.0.1/"\nheaders = {X = "${SECRET}"}\n'
PYTHON = '[operations.c]\nkind = "python"\ntarget = "os:getcwd"\n'


def written(folder: Path, text: str) -> Path:
    file = folder / "raincheck.toml"
    file.write_text(text)
    return file


async def shown(file: Path) -> dict[str, str]:
    """What the command of the file finds."""
    operation = make_operations(load_settings(file, environ={}))["a"]
    lines: str = await operation.executor.run({}, context_for(operation))
    return dict(line.split("=", 1) for line in lines.splitlines())


async def test_a_command_finds_what_its_table_or_the_default_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DEFAULT", "OWN", "SECRET", "RAINCHECK_STATE__URL"):
        monkeypatch.setenv(name, name.lower())
    head = '[execution]\ninherit = ["DEFAULT"]\n'

    by_default = await shown(written(tmp_path, head + COMMAND + HTTP))
    own = await shown(written(tmp_path, head + COMMAND + 'inherit = ["OWN"]\nenv = {TOKEN = "of ${SECRET}"}\n' + HTTP))

    ours = {"RAINCHECK_TASK_REF", "RAINCHECK_IDEMPOTENCY_KEY", "RAINCHECK_ORPHAN_REAPER"}
    fixed = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"}
    assert set(by_default) - fixed == ours | {"DEFAULT"}
    assert set(own) - fixed == ours | {"OWN", "TOKEN"}
    assert own["TOKEN"] == "of secret"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[execution]\ninherit = ["SECRET"]\n' + HTTP, "'inherit' in [execution] names SECRET, which a ${SECRET}"),
        (COMMAND + 'inherit = ["SECRET"]\n' + HTTP, "'inherit' in [operations.a] names SECRET, which a ${SECRET}"),
        (
            COMMAND + 'inherit = ["TOKEN"]\n[server.auth]\ntokens = {ada = "${TOKEN}"}\n',
            "'inherit' in [operations.a] names TOKEN, which a ${TOKEN}",
        ),
        (COMMAND + 'inherit = ["KEY"]\n[encryption]\nkeys = ["${KEY}"]\n', "names KEY, which a ${KEY}"),
        (COMMAND + 'inherit = ["RAINCHECK_STATE__URL"]\n', "'inherit' in [operations.a] of raincheck.toml: RAINCHECK_"),
        (COMMAND + 'inherit = ["A=B"]\n', "'A=B' is not a variable's name"),
        (COMMAND + "inherit = [1]\n", "allowed: a list of texts"),
        (PYTHON + 'inherit = ["A"]\n', "'inherit' is for isolation = \"process\""),
    ],
)
def test_what_is_never_inherited_stops_the_start(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Path("raincheck.toml"), environ={})
    assert told in caught.value.message
    assert "\n" not in caught.value.message


def test_a_variable_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, COMMAND + 'env = {A = "${RAINCHECK_TEST_MISSING}"}\n'), environ={})
    with pytest.raises(ConfigurationError, match=r"operations\.a\].*'env' names \$\{RAINCHECK_TEST_MISSING\}"):
        make_operations(settings)


async def test_a_program_beside_the_file_runs_in_a_folder_of_its_own(tmp_path: Path) -> None:
    program = tmp_path / "show.sh"
    program.write_text("#!/bin/sh\necho cwd=$PWD\nls -A\n")
    program.chmod(0o755)

    found = await shown(written(tmp_path, COMMAND.replace('"env"', '"./show.sh"')))

    assert found.keys() == {"cwd"}
    assert found["cwd"] != str(tmp_path)
    assert not Path(found["cwd"]).exists()
