"""For your own tests: a server's operations run for real, in this process, and nothing is kept.

::

    from operations import rc
    from raincheck.testing import RaincheckClient

    pytest_plugins = "raincheck.testing"


    def test_a_document_is_summarised(raincheck_client: RaincheckClient) -> None:
        result = raincheck_client(rc).call_tool("summarise", {"pages": ["a slow tool", "a ticket"]})
        assert result.value == {"pages": 2, "words": 5}

The fixture is a plain one: no async plugin and no `asyncio_mode` is needed, and tests may be `async` or not. Needs
pytest; `in_memory` is the same without the fixture.

PYTEST_DONT_REWRITE: so pytest does not warn where a test has imported from here before it loads the plugin.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raincheck.client.poller import TaskPoller
from raincheck.client.reconnecting import ReconnectingSession
from raincheck.client.sync import SyncClient
from raincheck.errors import OperationFailed
from raincheck.extras import missing_package

try:
    import pytest
except ImportError:
    raise missing_package("raincheck.testing needs pytest", "pytest") from None

if TYPE_CHECKING:
    from raincheck.client.models import TaskResult
    from raincheck.mcp.host import TaskHost

__all__ = ["RaincheckClient", "in_memory", "raincheck_client"]


@contextmanager
def in_memory(server: TaskHost | str | os.PathLike[str]) -> Generator[SyncClient]:
    """A client of a server in this process, whose tasks are kept in memory while the block runs.

    Its calls return when their task is settled; a failed task raises what belongs to its error's code, and a tool that
    answers with an error of its own raises `OperationFailed`. When the block ends, tasks under way are waited for
    (`drain_seconds`), and all of them are forgotten. No webhook is sent.

    Args:
        server: The server's `Raincheck`, of either host, or a configuration file.

    Raises:
        ConfigurationError: The `Raincheck` belongs to no server yet or is running already, or something is wrong in the
            file.
        MissingDependency: The extra `server` is not installed.
    """
    from raincheck.stores.memory.store import MemoryStore

    rc = _of_file(Path(server)) if isinstance(server, str | os.PathLike) else server
    with rc.kept_in(MemoryStore()):
        connection = rc.in_process()

        @asynccontextmanager
        async def connected() -> AsyncGenerator[Any]:
            async with rc.running(), connection as client:
                yield client

        with _Client(lambda: ReconnectingSession(connected, outage_seconds=0.0), TaskPoller()) as client:
            yield client


class _Client(SyncClient):
    """Where the other one hands a tool's own error on, for a model to read, it fails the test."""

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, **callbacks: Any) -> TaskResult:
        result = super().call_tool(name, arguments, **callbacks)
        if result.is_error:
            texts = [str(block["text"]) for block in result.content if block.get("type") == "text"]
            raise OperationFailed("\n".join(texts) or f"{name} answered with an error")
        return result


RaincheckClient = Callable[["TaskHost | str | os.PathLike[str]"], SyncClient]
"""What the fixture gives: called with a server as `in_memory` is, its one client, until the test is over."""


@pytest.fixture
def raincheck_client() -> Generator[RaincheckClient]:
    """Clients of servers in this process; see `in_memory`."""
    with ExitStack() as servers:

        @functools.cache
        def client(server: TaskHost | str | os.PathLike[str]) -> SyncClient:
            return servers.enter_context(in_memory(server))

        yield client


def _of_file(path: Path) -> TaskHost:
    from raincheck.composition.adapters import require_server

    require_server()
    from raincheck.config.loading import load_settings
    from raincheck.mcp.server.serve import make_server

    # The environment may name the store of a real server.
    _, rc = make_server(load_settings(path, environ={}))
    return rc
