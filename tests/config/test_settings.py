"""Settings: defaults, where they come from and who wins, and the one line that every mistake gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raincheck.config.loading import load_settings
from raincheck.config.sections.operations import CommandSettings
from raincheck.config.settings import Settings, user_state_folder
from raincheck.errors import ConfigurationError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str | bytes, name: str = "raincheck.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def load(text: str | bytes, environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
    flags = {name.replace("_", ".", 1): value for name, value in overrides.items()}
    return load_settings(write(text), environ=environ or {}, overrides=flags)


def mistake(text: str | bytes, environ: dict[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(text, environ, **overrides)
    message = caught.value.message
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    return message


REPORT = '[operations.report]\nkind = "python"\ntarget = "reports:build"\n'


def test_without_a_file_the_defaults_of_the_design_hold() -> None:
    settings = load_settings(None, environ={"HOME": "/home/ada"})
    assert (settings.server.host, settings.server.port, settings.server.transport) == ("127.0.0.1", 8000, "stdio")
    assert (settings.state.provider, settings.state.ttl_seconds, settings.state.key_prefix) == (
        "sqlite",
        86400,
        "mcp_task:",
    )
    assert (settings.execution.engine, settings.execution.max_concurrency) == ("local", 50)
    assert (settings.execution.default_timeout_seconds, settings.execution.default_max_wait_seconds) == (120, 3600)
    assert settings.execution.inline_wait_seconds == "auto"
    assert (settings.server.handle_tools, settings.server.detail) == ("all", "compact")
    assert settings.polling.model_dump() == {
        "initial_interval_ms": 1000,
        "max_interval_ms": 30000,
        "backoff_multiplier": 2.0,
        "max_attempts": 20,
        "learn": True,
        "hold_seconds": 3,
        "max_hold_seconds": 25,
        "patience": {},
        "calls_per_second": 0,
        "call_burst": 100,
    }
    assert settings.observability.model_dump() == {
        "metrics_prefix": "mcp_async",
        "log_level": "info",
        "log_format": "text",
        "log_tasks": True,
        "alert_on_failure_rate": 0.05,
    }
    assert settings.source == "the defaults"


def test_the_file_in_the_working_folder_is_found_and_its_folder_kept(elsewhere: Path) -> None:
    write("[server]\nport = 9000\n")
    settings = load_settings(None, environ={})
    assert (settings.server.port, settings.folder, settings.source) == (9000, elsewhere, "raincheck.toml")


def test_relative_paths_start_at_the_folder_of_the_file(elsewhere: Path) -> None:
    path = write('[state]\nurl = "data/tasks.db"\n', "conf/here.toml")
    assert load_settings(path, environ={}).database == elsewhere / "conf/data/tasks.db"


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("7.5", 7.5), ("0", 0)])
def test_a_number_or_a_word_is_read_from_the_environment(text: str, value: float | str) -> None:
    environ = {"RAINCHECK_EXECUTION__INLINE_WAIT_SECONDS": text, "RAINCHECK_POLLING__PATIENCE": '{"my-agent": 7}'}
    settings = load("", environ)
    assert settings.execution.inline_wait_seconds == value
    assert settings.polling.patience == {"my-agent": 7}


@pytest.mark.parametrize(
    ("key", "text", "parts"),
    [
        ("EXECUTION__INLINE_WAIT_SECONDS", "soon", ['"soon"', "'inline_wait_seconds'", '"auto" or a number from 0']),
        ("EXECUTION__INLINE_WAIT_SECONDS", "61", ["61", '"auto" or a number from 0 up to 60']),
        ("POLLING__PATIENCE", "a=3", ['"a=3"', "a table of numbers from 1 up to 86400 (as JSON)"]),
        ("POLLING__PATIENCE", '{"a": 0}', ["invalid value 0 for 'a' in [polling.patience]"]),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable(key: str, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("", {f"RAINCHECK_{key}": text})
    for part in (f"RAINCHECK_{key}", *parts):
        assert part in caught.value.message


def test_the_environment_overrides_the_file_and_flags_override_both() -> None:
    text = "[server]\nport = 1\nhost = 'a'\nname = 'n'\n"
    environ = {"RAINCHECK_SERVER__PORT": "2", "RAINCHECK_SERVER__HOST": "b"}
    server = load(text, environ, server_port=3, server_name=None).server
    assert (server.port, server.host, server.name) == (3, "b", "n")


def test_environment_values_are_read_as_the_type_of_their_key() -> None:
    text = REPORT + '[operations.run-it]\nkind = "command"\nargv = ["a"]\n'
    environ = {
        "RAINCHECK_EXECUTION__DEFAULT_TIMEOUT_SECONDS": "1.5",
        "RAINCHECK_SERVER__NAME": "17",
        "RAINCHECK_OPERATIONS__REPORT__TIMEOUT_SECONDS": "7",
        "RAINCHECK_OPERATIONS__RUN_IT__ARGV": '["b", "c"]',
        "RAINCHECK_HOME": "not a setting of ours",
        "OTHER__THING": "neither",
    }
    settings = load(text, environ)
    assert (settings.execution.default_timeout_seconds, settings.server.name) == (1.5, "17")
    assert settings.operations["report"].timeout_seconds == 7
    command = settings.operations["run-it"]
    assert isinstance(command, CommandSettings)
    assert command.argv == ("b", "c")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().server.port = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_short_form_of_parameters_becomes_a_schema_where_those_without_default_are_required() -> None:
    head = '[operations.run]\nkind = "command"\nargv = ["a"]\n'
    short = '[operations.run.parameters]\ntype = {type = "string"}\nsize = {type = "integer", default = 1}\n'
    operation = load(head + short).operations["run"]
    assert isinstance(operation, CommandSettings)
    assert operation.parameters == {
        "type": "object",
        "properties": {"type": {"type": "string"}, "size": {"type": "integer", "default": 1}},
        "required": ["type"],
        "additionalProperties": False,
    }
    whole = load(head + 'parameters = {type = "object", properties = {a = {type = "string"}}}\n').operations["run"]
    assert isinstance(whole, CommandSettings)
    assert whole.parameters == {"type": "object", "properties": {"a": {"type": "string"}}}
    message = mistake(head + 'parameters = {size = "integer"}\n')
    assert "'parameters' in [operations.run] of raincheck.toml" in message
    assert "'size' is no table" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            REPORT + "timout_seconds = 3",
            ['unknown key "timout_seconds" in [operations.report]', "did you mean timeout_seconds?", "Allowed: "],
        ),
        ("[executon]\nengine = 'local'", ["unknown table [executon]", "did you mean execution?", "[server], [state]"]),
        ("port = 80", ["unknown key", "outside of any table", "belongs into [server]"]),
        ("folder = '/'", ["unknown key 'folder'"]),
        ("server = 3", ["[server]", "must be a table, found 3"]),
        (
            "[observability]\nlog_format = 'xml'",
            ["invalid value \"xml\" for 'log_format' in [observability] of", 'allowed: "text" or "json"'],
        ),
        ("operations = 3", ["[operations]", "must be a table, found 3"]),
        ("operations.x = 3", ["[operations.x]", "must be a table, found 3"]),
        ("[server]\nport = true", ["invalid value true for 'port' in [server]", "a whole number from 0 up to 65535"]),
        ("[server]\nport = 65536", ["invalid value 65536 for 'port'"]),
        ("[server]\nport = '80'", ["invalid value \"80\" for 'port'"]),
        ("[server]\ntransport = 'http'", ['"stdio", "streamable-http" or "sse"']),
        ("[state]\nprovider = 'rocks'", ["invalid value \"rocks\" for 'provider'"]),
        ("[state]\nprovider = 'memory'\nurl = 'x'", ["'url' must be empty", "[state]"]),
        ("[execution]\nmax_concurrency = -1", ["-1", "'max_concurrency'", "from 0"]),
        ("[execution]\ndefault_timeout_seconds = 0", ["above 0"]),
        ("[execution]\ndefault_timeout_seconds = inf", ["'default_timeout_seconds'"]),
        ("[execution]\ndefault_timeout_seconds = nan", ["'default_timeout_seconds'"]),
        ("[execution]\nlease_seconds = 0.5", ["'lease_seconds'", "from 1"]),
        ("[execution]\nmax_result_bytes = 99999999999999999999999", ["'max_result_bytes'"]),
        ("[execution]\ndefault_max_wait_seconds = 100000", ["above max_wait_ceiling_seconds (86400)", "[execution]"]),
        ("[polling]\ninitial_interval_ms = 9\nmax_interval_ms = 8", ["initial_interval_ms (9)", "[polling]"]),
        ("[polling]\nhold_seconds = 9\nmax_hold_seconds = 5", ["hold_seconds (9) is above max_hold_seconds (5)"]),
        ("[polling]\nmax_hold_seconds = 301", ["invalid value 301 for 'max_hold_seconds'", "from 0 up to 300"]),
        ("[polling]\npatience = 3", ["invalid value 3 for 'patience'", "a table of numbers from 1 up to 86400"]),
        (
            "[polling.patience]\nmy-agent = 0\nother = true",
            ["invalid value 0 for 'my-agent' in [polling.patience] of", "allowed: a number from 1 up to 86400 (and 1"],
        ),
        ("[polling.patience]\n'a b' = '9'", ["invalid value \"9\" for 'a b' in [polling.patience]", "a number from 1"]),
        ("[execution]\ninline_wait_seconds = 61", ["invalid value 61", '"auto" or a number from 0 up to 60']),
        ("[execution]\ninline_wait_seconds = true", ["invalid value true", '"auto" or a number from 0 up to 60']),
        ("[execution]\ninline_wait_seconds = 'Auto'", ['invalid value "Auto"', "did you mean auto?"]),
        (REPORT + "inline_wait_seconds = nan", ["'inline_wait_seconds' in [operations.report]", '"auto" or a number']),
        (REPORT + "answer_by = 'model'", ["'answer_by' in [operations.report]", '"user" or "anyone"']),
        ("[server]\nhandle_tools = 'some'", ["invalid value \"some\" for 'handle_tools'", '"all", "status" or "none"']),
        ("[server]\ndetail = 'fulll'", ["'detail'", '"compact" or "full"', "did you mean full?"]),
        ("[server]\ntool_use_ids = 'a/b'", ["invalid value \"a/b\" for 'tool_use_ids'", "a list of texts"]),
        ("[server]\ntool_use_ids = [3]", ["'tool_use_ids'", "a list of texts"]),
        ("[observability]\nalert_on_failure_rate = 1.5", ["from 0 up to 1"]),
        ("[observability]\nmetrics_prefix = 'a-b'", ['"a-b"', "letters, digits and _"]),
        (REPORT + "default_max_wait_seconds = 100000", ["(86400) in [operations.report]"]),
        (REPORT + "mode = 'fast'", ['"inline", "auto" or "task"']),
        ("[operations.x]\ntitle = 'x'", ["missing key 'kind' in [operations.x]", '"python", "command" or "http"']),
        ("[operations.x]\nkind = 'mcp'", ["kind 'mcp'", "not in this release"]),
        ("[operations.x]\nkind = 'pyton'", ["invalid value \"pyton\" for 'kind'"]),
        ("[operations.x]\nkind = 3", ["invalid value 3 for 'kind'"]),
        ("[operations.x]\nkind = 'python'", ["missing key 'target' in [operations.x]", "module:function"]),
        ("[operations.x]\nkind = 'python'\ntarget = 'a'", ["module:function"]),
        ("[operations.x]\nkind = 'command'\nargv = []", ["'argv'", "a list of texts, not empty"]),
        ("[operations.x]\nkind = 'command'\nargv = 'ls -l'", ["'argv'", "a list of texts"]),
        ("[operations.x]\nkind = 'http'\nurl = 'http://a'\nbody = 3", ["'body'", "a text, a table or a list"]),
        ('[operations."a b"]\nkind = "python"\ntarget = "a:b"', ['[operations."a b"]', "no valid tool name"]),
        ("[operations.cancel_background_task]\nkind = 'python'\ntarget = 'a:b'", ["a handle tool"]),
        ('["\\n\\u001b"]\na = 1', ["unknown table"]),
        ("[server]\nport = ", ["no valid TOML", "line 2, column 7"]),
        ("[server]\nargs = [1,", ["no valid TOML", "line 2, column 11, the end"]),
        ("[server]\nport = 1\nport = 2", ["no valid TOML", "line 3"]),
        ("a = " + "[" * 50_000, ["no valid TOML"]),
        ("a = " + "9" * 5000, ["no valid TOML"]),
        (b"[server]\nname = '\xff'", ["not UTF-8", "line 2", "0xff"]),
        ("#" * 20_000_000, ["raincheck.toml is larger than 1048576 bytes"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_file_table_key_and_what_is_allowed(
    text: str | bytes, parts: list[str]
) -> None:
    message = mistake(text)
    assert "raincheck.toml" in message
    for part in parts:
        assert part in message


def test_further_mistakes_are_counted() -> None:
    assert mistake("[server]\nport = -1\nhost = 3\nnmae = 'x'").endswith("(and 2 more to correct)")


def test_a_file_with_a_byte_order_mark_is_read() -> None:
    assert load(b"\xef\xbb\xbf[server]\nport = 9\n").server.port == 9


@pytest.mark.parametrize("name", ["gone.toml", ".", "nul\0byte"])
def test_a_file_that_cannot_be_read_is_one_line(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Path(name), environ={})
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_one_line() -> None:
    path = write("")
    path.chmod(0)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        load_settings(path, environ={})


@pytest.mark.parametrize(
    "text",
    [
        "[state]\nurl = 'postgres://ada:hunter2@db/x'",
        "[operations.x]\nkind = 'http'\nurl = 'ftp://ada:hunter2@h'",
        "[operations.x]\nkind = 'http'\nurl = 'http://h'\nheaders = 'Bearer hunter2'",
        "[operations.x]\nkind = 'http'\nurl = 'http://h'\nheaders = {A = ['hunter2']}",
        "[operations.x]\nkind = 'command'\nargv = 'curl hunter2'",
        "[operations.x]\nkind = 'command'\nargv = ['curl']\nenv = 'hunter2'",
        "[operations.x]\nkind = 'command'\nargv = ['curl']\npasswrd = 'hunter2'",
        "[server]\nhost = ''\nurl = 'hunter2'",
    ],
)
def test_a_value_that_may_be_a_secret_is_never_shown(text: str) -> None:
    assert "hunter2" not in mistake(text)
    assert "hunter2" not in mistake("", {"RAINCHECK_STATE__URL": "postgres://ada:hunter2@db/x"})
    environ = {"RAINCHECK_OPERATIONS__X__ENV": "hunter2"}
    assert "hunter2" not in mistake("[operations.x]\nkind = 'command'\nargv = ['a']", environ)


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"RAINCHECK_SERVER__PORT": "x"}, ["invalid value \"x\" for 'port'", "environment (RAINCHECK_SERVER__PORT)"]),
        ({"RAINCHECK_SERVER__PORT": "-1"}, ["-1", "environment (RAINCHECK_SERVER__PORT)"]),
        ({"RAINCHECK_EXECUTION__LEASE_SECONDS": "inf"}, ["environment (RAINCHECK_EXECUTION__LEASE_SECONDS)"]),
        ({"RAINCHECK_SEVER__PORT": "1"}, ["RAINCHECK_SEVER__PORT", "did you mean SERVER?"]),
        ({"RAINCHECK_SERVER__PROT": "1"}, ["RAINCHECK_SERVER__PROT", "did you mean PORT?"]),
        ({"RAINCHECK_SERVER__": "1"}, ["unknown environment variable RAINCHECK_SERVER__"]),
        ({"RAINCHECK___PORT": "1"}, ["unknown environment variable RAINCHECK___PORT"]),
        ({"RAINCHECK_OPERATIONS__RAPPORT__MODE": "task"}, ["fits no operation", "Operations: report"]),
        ({"RAINCHECK_OPERATIONS__REPORT": "task"}, ["RAINCHECK_OPERATIONS__REPORT"]),
        ({"RAINCHECK_OPERATIONS__REPORT__MOOD": "task"}, ["did you mean MODE?"]),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(environ: dict[str, str], parts: list[str]) -> None:
    message = mistake(REPORT, environ)
    for part in parts:
        assert part in message


def test_a_variable_that_fits_two_operations_is_refused() -> None:
    text = '[operations.a-b]\nkind = "python"\ntarget = "a:b"\n[operations."a.b"]\nkind = "python"\ntarget = "a:b"\n'
    assert "fits several operations: a-b, a.b" in mistake(text, {"RAINCHECK_OPERATIONS__A_B__MODE": "task"})


def test_variables_do_not_hide_that_a_table_of_the_file_is_malformed() -> None:
    assert "must be a table" in mistake("server = 3", {"RAINCHECK_SERVER__PORT": "1"}, server_host="h")
    assert "must be a table" in mistake("operations.x = 3", {"RAINCHECK_OPERATIONS__X__MODE": "task"})


def test_a_mistake_in_a_flag_names_the_flag() -> None:
    assert "the command line (--port)" in mistake("", server_port=-3)
    assert "the command line (--state-url)" in mistake("", state_url="redis://x")


def test_tasks_are_kept_in_the_platforms_state_folder() -> None:
    home = Path.home()
    assert user_state_folder({}, "linux") == home / ".local/state/raincheck"
    assert user_state_folder({"XDG_STATE_HOME": "/var/s"}, "linux") == Path("/var/s/raincheck")
    assert user_state_folder({"XDG_STATE_HOME": "relative"}, "linux") == home / ".local/state/raincheck"
    assert user_state_folder({}, "darwin") == home / "Library/Application Support/raincheck"
    assert user_state_folder({"LOCALAPPDATA": "/c/local"}, "win32") == Path("/c/local/raincheck")
    assert load_settings(None, environ={"XDG_STATE_HOME": "/var/s"}).database == Path("/var/s/raincheck/tasks.db")
