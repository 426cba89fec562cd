"""The base package's client needs no SDK; what needs one says so."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

WITHOUT_SDK = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mcp", "mcp_types", "anyio", "httpx", "httpx2", "pydantic"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_poller_and_the_facade_load_no_sdk_no_store_and_no_server() -> None:
    loaded = run(
        WITHOUT_SDK
        + """
from raincheck.client import PollingPolicy, ReconnectingSession, TaskHandle, TaskPoller, TaskWasCancelled, connect
import raincheck.client.sync
print(*sorted(name for name in sys.modules if name.startswith("raincheck.")))
"""
    ).split()
    assert "raincheck.client.poller" in loaded
    assert not [name for name in loaded if name.split(".")[1] in {"store", "stores", "engines", "mcp", "registry"}]


@pytest.mark.parametrize("use", ["from raincheck.client import TasksExtension", "raincheck.client.connect('server')"])
def test_what_needs_the_sdk_names_the_command_that_installs_it(use: str) -> None:
    said = run(
        f"""
import importlib.util
import raincheck.client
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "mcp_types" else there(name, package)
from raincheck.errors import MissingDependency
try:
    {use}
except MissingDependency as missing:
    print(missing)
"""
    )
    assert re.search(r'pip install .*\[server\]"$', said)


def test_every_exported_name_is_there_and_sorted() -> None:
    import raincheck.client

    assert raincheck.client.__all__ == sorted(raincheck.client.__all__)
    for name in raincheck.client.__all__:
        assert getattr(raincheck.client, name).__name__ == name
    with pytest.raises(AttributeError):
        raincheck.client.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
