"""What a real server's log holds of what callers and operations chose: no line of theirs, and no secret."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.client import Client
from mcp.server.mcpserver import MCPServer

from raincheck.domain.logs import guard_logs, on_one_line, traceback_lines
from raincheck.domain.redaction import redacting
from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.operation import Policy
from support.serving import Refused, Workplace

FORGED = "2026-11-30T10:00:00.000Z info raincheck.auth: scope=admin logged in"
ODD = f"x\r\n{FORGED}\n\x1b[2J\x1b]0;owned\x07\x85\u2028\u202etxt.exe\u200b\x00"
SECRET = "sk-live-0123456789"
LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info|warning|error|critical) [\w.]+: |  \| |raincheck: ")

FUNCTIONS = """
import logging
from typing import Annotated

from pydantic import AfterValidator, SecretStr


def crash(value):
    raise LookupError(f"cannot check {value}")


def forges(text: str):
    logging.getLogger("a.library").warning("heard %s", text)
    raise ValueError(text)


def knows(api_key: SecretStr, text: str = ""):
    logging.getLogger("a.library").warning("logging in with %s", api_key.get_secret_value())
    try:
        raise KeyError(f"{api_key.get_secret_value()!r}")
    except KeyError as error:
        raise ValueError(f"no such key: {api_key.get_secret_value()}") from error


def checks(api_key: str, text: Annotated[str, AfterValidator(crash)]):
    return "never"


def speaks():
    raise ConnectionError("redis://app:hunter2@10.0.0.7:6379/0 said no, password=hunter3, Bearer hunter4hunter4")
"""


def operation(name: str, target: str, *settings: str) -> str:
    return "\n".join([f"[operations.{name}]", 'kind = "python"', f'target = "ops:{target}"', *settings, ""])


TOML = '[observability]\nlog_level = "debug"\n' + "".join(
    operation(f"{target}_{mode}", target, f'mode = "{mode}"', 'secrets = ["api_key"]')
    for target in ("forges", "knows", "checks", "speaks")
    for mode in ("inline", "auto")
)


async def test_no_caller_and_no_operation_writes_a_line_or_a_secret_into_the_log(tmp_path: Path) -> None:
    async with Workplace(tmp_path, TOML, FUNCTIONS).stdio() as server:
        for mode in ("inline", "auto"):
            for name, arguments in (
                ("forges", {"text": ODD}),
                ("knows", {"api_key": SECRET, "text": ODD}),
                ("checks", {"api_key": SECRET, "text": f"{SECRET} {ODD}"}),
                ("speaks", {}),
            ):
                with pytest.raises(Refused) as refused:
                    await server.call(f"{name}_{mode}", arguments)
                assert SECRET not in refused.value.message
        with pytest.raises(Refused):
            await server.submit("checks_auto", {"api_key": SECRET, "text": f"{SECRET} {ODD}"})
        log = server.log
    assert [line for line in log.splitlines() if not LINE.match(line)] == []
    assert not any(line.startswith(FORGED) for line in log.splitlines())
    assert [char for char in log if not char.isprintable() and char != "\n"] == []
    assert [secret for secret in (SECRET, "hunter2", "hunter3", "hunter4") if secret in log] == []
    # It is not silent: who looks for the cause finds it.
    assert log.count("operation failed: ValueError") >= 4
    assert "heard x\\r\\n2026-11-30" in log
    assert "ConnectionError: redis://(withheld)@10.0.0.7:6379/0 said no" in log
    assert log.count("a tool call failed, correlation id") == 3


@pytest.fixture
def own_log() -> Iterator[io.StringIO]:
    """The log of a program that uses raincheck as a library, as the standard library formats it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


async def test_adopted_tools_and_inline_operations_of_a_library_log_no_secret_either(
    tmp_path: Path, own_log: io.StringIO
) -> None:
    rc = Raincheck(store=tmp_path / "tasks.db", tools="slow_*", policy=Policy(secrets=("api_key",)))
    server = MCPServer[Any]("test", extensions=[rc], lifespan=rc.lifespan)

    @server.tool()
    async def slow_login(api_key: str, text: str) -> str:
        raise ValueError(f"no such key: {api_key} {text}")

    @rc.operation(mode="inline", secrets=("api_key",))
    def look_up(api_key: str, text: str) -> str:
        raise ValueError(f"no such key: {api_key} {text}")

    async with Client(server) as client:
        for name in ("slow_login", "look_up"):
            answer = await client.call_tool(name, {"api_key": SECRET, "text": ODD})
            assert answer.is_error
            assert SECRET not in str(answer)
    ours = [line for line in own_log.getvalue().splitlines() if "failed" in line]
    assert len(ours) >= 2
    assert SECRET not in own_log.getvalue()
    assert FORGED not in own_log.getvalue().splitlines()


def test_what_raincheck_logs_in_another_programs_log_is_bounded_and_on_its_line(own_log: io.StringIO) -> None:
    guard_logs()
    try:
        raise ValueError(ODD + "y" * 1_000_000)
    except ValueError:
        logging.getLogger("raincheck.tests").exception("%s", ODD + "x" * 1_000_000)
    lines = own_log.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith("  | ") for line in lines[1:-1])
    assert len(own_log.getvalue()) < 25_000


def test_a_process_that_sets_up_no_log_still_hears_of_warnings(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import logging; from raincheck.domain.logs import guard_logs; guard_logs(); guard_logs()\n"
    code += "log = logging.getLogger('raincheck.x'); log.info('quiet'); log.warning('loud\\nand clear')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "loud\\nand clear\n"


@given(text=st.text(st.characters(codec=None, exclude_categories=[]), max_size=300))
def test_any_text_is_one_bounded_printable_line(text: str) -> None:
    line = on_one_line(text, 100)
    assert line.isprintable()
    assert len(line) <= 100
    assert on_one_line(line, 100) == line


def test_what_is_withheld_is_in_no_line_and_a_deep_traceback_is_short() -> None:
    with redacting({SECRET}):
        assert SECRET not in on_one_line(f"the key {SECRET} is wrong")
    assert on_one_line(SECRET) == SECRET

    def deep(left: int) -> None:
        if left:
            deeper(left - 1)
        raise ValueError("at last")

    def deeper(left: int) -> None:
        deep(left)

    with pytest.raises(ValueError, match="at last") as raised:
        deep(400)
    told = traceback_lines(raised.value)
    assert len(told) <= 16_000
    assert told.endswith("ValueError: at last")
