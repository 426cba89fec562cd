"""`raincheck` as a program: help that teaches, exit codes, one line for every error, and `check`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from raincheck import __version__
from raincheck.cli.main import cli
from support.command_line import CommandLine, commands
from support.waiting import PATIENCE

REPORTS = '''
print("what a module prints")

async def build(quarter: str, pages: int = 3) -> str:
    """Build a quarterly report."""
    return quarter

class Odd:
    @classmethod
    def __get_pydantic_core_schema__(cls, *_):
        raise RuntimeError("odd")

async def odd(fine: int, x: Odd) -> None:
    """Its type has a mind of its own."""
'''
CONFIGURATION = """
[operations.report]
kind = "python"
target = "reports:build"
timeout_seconds = 300

[operations.echo]
kind = "command"
argv = ["echo", "{text}"]
description = "Say it again."
parameters = {text = {type = "string"}}
mode = "task"
"""


@pytest.fixture
def configured(raincheck: CommandLine) -> CommandLine:
    Path("reports.py").write_text(REPORTS)
    Path("raincheck.toml").write_text(CONFIGURATION)
    return raincheck


def test_the_version_is_told(raincheck: CommandLine) -> None:
    assert raincheck("--version").out == f"raincheck, version {__version__}\n"


def test_it_also_runs_as_a_module_and_imports_nothing_heavy_for_its_version() -> None:
    code = (
        "import sys, runpy; sys.argv = ['raincheck', '--version']\n"
        "try: runpy.run_module('raincheck', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, rest = done.stdout.splitlines()
    assert version.endswith(__version__)
    code, *imported = rest.split()
    assert code == "0"
    assert "click" in imported
    assert not {"mcp", "pydantic", "sqlite3", "asyncio", "rich", "jsonschema"} & set(imported)


@pytest.mark.parametrize(("path", "command"), list(commands(cli)))
def test_every_command_has_a_help_text_with_an_example(
    raincheck: CommandLine, path: tuple[str, ...], command: click.Command
) -> None:
    said = raincheck(*path, "--help")
    assert said.code == 0
    assert f"raincheck {' '.join(path)}".strip() in said.out
    assert "Example" in said.out or not path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert parameter.opts[0] in said.out


def test_without_a_command_the_help_is_shown(raincheck: CommandLine) -> None:
    said = raincheck()
    assert said.code == 2
    assert "raincheck serve" in said.out + said.err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("frob",), "'frob'"),
        (("serve", "--port", "x"), "'x' is not a valid integer"),
        (("serve", "--port", "-4"), "--port"),
        (("serve", "--transport", "http"), "'streamable-http'"),
        (("serve", "gone.toml"), "no configuration file gone.toml"),
        (("serve", "--state-url", "redis://h"), "--state-url"),
        (("store", "migrate", "--state-url", "gone/tasks.db"), "there is no folder"),
        (("tasks", "list", "--limit", "0"), "--limit"),
        (("tasks", "list", "--status", "done"), "'pending'"),
        (("tasks", "show"), "TASK_REF"),
        (("check", "."), "is a folder"),
    ],
)
def test_wrong_usage_and_configuration_end_with_code_2_and_one_line(
    raincheck: CommandLine, args: tuple[str, ...], told: str
) -> None:
    said = raincheck(*args)
    assert (said.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("raincheck: ")
    assert told in said.err


def test_flags_and_environment_override_the_file(configured: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAINCHECK_OPERATIONS__REPORT__TIMEOUT_SECONDS", "7")
    report = configured("check", "--state-url", "mine.db", "--json").json
    assert report["operations"][0]["timeout_seconds"] == 7
    assert report["state"]["file"] == str(Path("mine.db").absolute())


def test_check_shows_what_would_be_served(configured: CommandLine) -> None:
    said = configured("check")
    assert said.code == 0
    for part in ("report", "python", "5 min", "echo", "command", "Say it again.", "resolve_task_status"):
        assert part in said.out
    assert "what a module prints" not in said.out


def test_check_tells_programs_the_same(configured: CommandLine) -> None:
    report = configured("check", "--json").json
    assert report["ok"] is True
    assert [each["operation_type"] for each in report["operations"]] == ["report", "echo"]
    assert set(report["operations"][0]["parameters"]["properties"]) == {"quarter", "pages"}
    assert report["operations"][1]["mode"] == "task"
    assert "initiate_background_task" in report["handle_tools"]
    assert report["warnings"] == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[operations.a]\nkind = "python"\ntarget = "gone:build"', ("[operations.a] of raincheck.toml", "gone")),
        ('[operations.a]\nkind = "python"\ntarget = "reports:gone"', ("[operations.a] of raincheck.toml", "gone")),
        ('[operations.a]\nkind = "command"\nargv = ["no-such-program"]', ("[operations.a]", "no-such-program")),
        ('[operations.a]\nkind = "command"\nargv = ["echo", "{x}"]', ("[operations.a] of raincheck.toml", "x")),
        (
            '[operations.a]\nkind = "command"\nargv = ["echo"]\nparameters = {x = {type = "strnig"}}',
            ("[operations.a] of raincheck.toml", "parameters.properties.x.type"),
        ),
        ('[operations.a]\nkind = "command"\nargv = ["echo"]\ncwd = "gone"', ("[operations.a]", "gone")),
        ('[state]\nurl = "reports.py"', ("reports.py",)),
        ('[state]\nurl = "/dev/null"', ("/dev/null is a device or a pipe, not a file",)),
        ('[state]\nurl = "~nouser/x.db"', ("'url' in [state] of raincheck.toml: there is no home folder '~nouser'",)),
        ('[results]\nblobs = "files"\nfolder = "~nouser/x"', ("'folder' in [results]", "'~nouser'")),
        (f'[results]\nblobs = "files"\nfolder = "{"b" * 300}"', ("File name too long",)),
        ('[state]\nprovider = "dynamodb"\nurl = "http://["', ("'url' is no valid address",)),
        ('[execution]\nengine = "docket"\nqueue_url = "redis://[::1"', ("'queue_url' in [execution]",)),
        (f'[operations.a]\nkind = "command"\nargv = ["echo"]\ncwd = "{"c" * 300}"', ("working folder not found",)),
        (
            '[operations.a]\nkind = "command"\nargv = ["echo"]\nparameters = {x = {default = 1979-05-27}}',
            ("[operations.a] of raincheck.toml: parameters hold 1979-05-27, which JSON has not",),
        ),
        (
            '[operations.a]\nkind = "command"\nargv = ["echo"]\nparameters = {x = {minimum = 1e400}}',
            ("parameters hold inf, which JSON has not",),
        ),
        (
            '[operations.a]\nkind = "command"\nargv = ["echo"]\n'
            'parameters = {type = "object", properties = {x = {"$ref" = "#/properties/x"}}}',
            ("[operations.a] of raincheck.toml", "leads back to itself"),
        ),
        ('[operations.a]\nkind = "python"\ntarget = "reports:odd"', ("parameter 'x' is of type reports.Odd",)),
    ],
)
def test_check_ends_with_code_2_where_serve_would_not_start(
    configured: CommandLine, text: str, told: tuple[str, ...]
) -> None:
    Path("raincheck.toml").write_text(text)
    said = configured("check")
    assert said.code == 2
    line = said.err.splitlines()[-1]
    assert line.startswith("raincheck: ")
    for part in told:
        assert part in line
    report = configured("check", "--json").json
    assert report["ok"] is False
    assert told[-1] in report["error"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "declares no operation"),
        ('[server]\ntransport = "sse"\nhost = "0.0.0.0"\nallow_anonymous = true', "whoever reaches this address"),
        ('[state]\nprovider = "memory"', "lost when the server ends"),
        ("[execution]\nmax_concurrency = 0", "only accepts tasks"),
        (CONFIGURATION + '[operations.bare]\nkind = "command"\nargv = ["echo"]', "no description"),
        (CONFIGURATION + "timeout_seconds = 7200", "comes before its timeout"),
        (CONFIGURATION.replace("timeout_seconds = 300", 'mode = "inline"'), "longer than most clients wait"),
    ],
)
def test_check_warns_of_what_is_perhaps_not_meant(configured: CommandLine, text: str, told: str) -> None:
    Path("raincheck.toml").write_text(text)
    said = configured("check", "--json")
    assert said.code == 0
    assert any(told in warning for warning in said.json["warnings"])


def test_an_old_sdk_is_one_line_that_names_the_command(
    configured: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path("site/mcp-1.9.0.dist-info")
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: mcp\nVersion: 1.9.0\n")
    monkeypatch.setattr("sys.path", ["site", *sys.path])
    of_the_server = (
        "serve",
        "check",
        "demo",
        "worker office:rc",
        "check office:rc",
        "tasks office:rc",
        "store office:rc",
    )
    for command in of_the_server:
        said = configured(*command.split())
        assert said.code == 2
        assert said.err.startswith("raincheck: raincheck's server needs mcp 2.3 or newer: ")
        assert re.search(r'pip install .*\[server\]"\n$', said.err)


def test_a_reader_that_goes_away_ends_the_command_quietly(configured: CommandLine) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "raincheck", "check", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        told = process.stderr.read().decode()
    process.wait(timeout=PATIENCE)
    assert "Traceback" not in told
    assert "BrokenPipe" not in told
