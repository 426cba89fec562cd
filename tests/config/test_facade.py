"""The façade: small, lazy, and clear about a missing or old MCP SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raincheck

SOURCE = Path(raincheck.__file__).parents[1]


def run(code: str, *paths: Path) -> str:
    """What a bare interpreter prints: the standard library, our source, and `paths` before them."""
    lines = [f"import sys; sys.path[:0] = {[str(path) for path in (*paths, SOURCE)]!r}", code]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_raincheck_imports_no_adapter_and_no_heavy_library() -> None:
    code = "import raincheck; print(*sys.modules)"
    imported = set(run(code).split())
    assert "raincheck" in imported
    assert not imported & {"mcp", "pydantic", "sqlite3", "click", "asyncio"}


STARTED = """
import asyncio, sys
from mcp import Client
from mcp.server.mcpserver import MCPServer
from raincheck import Raincheck
from raincheck.config.settings import Settings
from raincheck.mcp.server.serve import make_server
from raincheck.stores.memory.store import MemoryStore

if {library}:
    rc = Raincheck(store=MemoryStore())
    server = MCPServer("library", extensions=[rc], lifespan=rc.lifespan, log_level="WARNING")
else:
    server, rc = make_server(Settings())

@rc.operation
def report(topic: str) -> str:
    return topic

async def listed():
    async with Client(server) as client:
        return (await client.list_tools()).tools

assert "report" in [tool.name for tool in asyncio.run(listed())]
print(*{{name.split(".")[0] for name in sys.modules}})
"""


def test_a_server_starts_without_what_it_does_not_need(tmp_path: Path) -> None:
    for library in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", STARTED.format(library=library)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        imported = set(done.stdout.split())
        # Each takes 20 to 70 ms. A library's server gets rich by the SDK itself.
        assert not imported & {"jsonschema", "referencing", "jwt", "tenacity", "aiobotocore"}
        assert library or "rich" not in imported


def test_every_name_of_the_facade_is_there_sorted_and_they_are_few() -> None:
    assert raincheck.__all__ == sorted(raincheck.__all__)
    assert len(raincheck.__all__) <= 15
    assert set(raincheck.__all__) <= set(dir(raincheck))
    for name in raincheck.__all__:
        assert getattr(raincheck, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(raincheck, "Raincheque")


REFUSED = """
import raincheck
try:
    raincheck.Raincheck
except raincheck.MissingDependency as error:
    print(error)
"""
ADVISED = """
import raincheck
for line in ("from raincheck.fastmcp import Raincheck", "import raincheck.testing"):
    try:
        exec(line)
    except raincheck.MissingDependency as error:
        print(error)
"""
# A source tree that nobody installed, where there is no pip: from where it is, by uv.
LINE = f'pip install --python {sys.executable} -e "{SOURCE.parent}[server]"'


def test_without_the_sdk_the_server_says_which_command_installs_it() -> None:
    said = run(REFUSED)
    assert said.startswith("raincheck's server needs mcp 2.3 or newer: ")
    assert said.endswith(LINE)


def test_what_else_is_imported_by_name_says_which_command_installs_what_it_needs() -> None:
    of_fastmcp, of_testing = run(ADVISED).splitlines()
    assert of_fastmcp.startswith("raincheck.fastmcp needs FastMCP 4.1 or newer: ")
    assert of_fastmcp.endswith('[fastmcp]"')
    assert of_testing.startswith("raincheck.testing needs pytest: ")
    assert of_testing.endswith(f"pip install --python {sys.executable} pytest")


def test_with_an_old_sdk_the_server_says_which_command_installs_it(tmp_path: Path) -> None:
    for version in ("1.26.0", "2.2.9"):
        folder = tmp_path / version / f"mcp-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mcp\nVersion: {version}\n")
        assert run(REFUSED, folder.parent).endswith(LINE)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tool": "slow_*"}, "Raincheck has no setting tool; did you mean tools?"),
        ({"port": 1}, "Raincheck has no setting port; there are: tools, store, results, policy, settings, webhooks"),
        ({"tools": 3}, "Raincheck(tools=…) takes a name pattern or a list of them; it was of type int."),
        ({"tools": [print]}, "Raincheck(tools=…) takes a name pattern or a list of them; it was of type list."),
        ({"store": 5}, "Raincheck(store=…) takes a path (SQLite) or a store; it was of type int."),
        (
            {"store": "postgresql://me:hush@x/y"},
            "Raincheck(store=…) takes a path, not an address (postgresql://…): that goes into [state] of the settings, "
            "Raincheck(settings=…).",
        ),
        ({"results": 5}, "Raincheck(results=…) takes a folder or a blob store; it was of type int."),
        ({"results": "s3://bucket"}, "Raincheck(results=…) takes a path, not an address (s3://…): that goes into"),
        ({"policy": {"mode": "task"}}, "Raincheck(policy=…) takes a raincheck.Policy; it was of type dict."),
        ({"settings": {}}, "Raincheck(settings=…) takes what raincheck.load_settings gives; it was of type dict."),
        ({"webhooks": 3}, "Raincheck(webhooks=…) takes a mapping of keys of [webhooks]; it was of type int."),
    ],
)
def test_what_a_raincheck_cannot_be_given_is_refused_in_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(raincheck.ConfigurationError) as caught:
        raincheck.Raincheck(**given)
    assert caught.value.message.startswith(told)
    assert "\n" not in caught.value.message


def test_an_operation_is_refused_a_word_that_its_policy_has_not() -> None:
    operation: Any = raincheck.Raincheck().operation
    with pytest.raises(raincheck.ConfigurationError, match=r"^mode must be inline, auto or task; it was 'tsk'"):
        operation(mode="tsk")(print)
