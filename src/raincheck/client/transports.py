"""Connections to a server by address or command. Needs mcp 2.x, as all that is imported here on use."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from raincheck._version import __version__
from raincheck.client.errors import ConnectionLost
from raincheck.client.parsing import Session
from raincheck.client.reconnecting import Connect, ReconnectingSession
from raincheck.client.retries import lost_connection
from raincheck.extras import missing_extra

_REFUSALS: Final = {401: "the token is not accepted", 403: "access is refused"}

Server = str | Sequence[str] | Connect
"""An address (`http…`), a command line, a command's words, or what opens a connection itself."""


def connect(
    server: Server,
    *,
    headers: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    outage_seconds: float = 60.0,
) -> AbstractAsyncContextManager[ReconnectingSession]:
    """A session for `TaskPoller` that connects anew after each loss, and starts a stdio server again that died.

    Args:
        server: An `http(s)` address, a command line such as `"raincheck serve"`, its words as a list, or a function
            that opens a connection (with mcp 1.x, say).
        headers: For an address: sent with every request, such as `Authorization`.
        env: For a command: added to the few variables that the SDK hands on.
        cwd: For a command: where it runs.
        outage_seconds: How long a call waits for a server that does not come back.

    Raises:
        ConnectionLost: On entering: nothing answers at the address, the command does not start, or the server
            refuses these headers.
        MissingDependency: mcp 2.x is not installed, and `server` is no function.
        ValueError: The command line is empty, or its quotes are not closed.
    """
    return ReconnectingSession(connector(server, headers=headers, env=env, cwd=cwd), outage_seconds=outage_seconds)


def connector(
    server: Server,
    *,
    headers: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Connect:
    """What opens one connection to the server, for `ReconnectingSession`. Arguments and errors as of `connect`."""
    if callable(server):
        return server
    if importlib.util.find_spec("mcp_types") is None:
        raise missing_extra("Connecting needs the mcp SDK 2.x", "server")
    if isinstance(server, str) and server.startswith(("http://", "https://")):
        return _over_http(server, dict(headers or {}))
    words = shlex.split(server) if isinstance(server, str) else list(server)
    if not words:
        raise ValueError("the server's command is empty")
    return _over_stdio(words, env, cwd)


def _over_http(url: str, headers: Mapping[str, str]) -> Callable[[], AbstractAsyncContextManager[Session]]:
    from raincheck.client.http import steady_http

    place = re.sub(r"//[^/@]*@", "//", url.partition("?")[0])

    def opened() -> AbstractAsyncContextManager[Session]:
        statuses: list[int] = []

        async def noted(response: Any) -> None:
            statuses.append(response.status_code)

        # The short outage is the session's to bridge: it can also begin a protocol session anew.
        transport = steady_http(url, headers=headers, outage_seconds=0.0, event_hooks={"response": [noted]})
        return _client(transport, place, statuses)

    return opened


def _over_stdio(
    words: Sequence[str], env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None
) -> Callable[[], AbstractAsyncContextManager[Session]]:
    from mcp import StdioServerParameters

    server = StdioServerParameters(
        command=words[0],
        args=list(words[1:]),
        env=None if env is None else dict(env),
        cwd=None if cwd is None else Path(cwd),
    )
    return lambda: _client(server, f"the server {words[0]!r}", [])


@asynccontextmanager
async def _client(server: Any, place: str, statuses: Sequence[int]) -> AsyncGenerator[Session]:
    """One connection; what keeps it from being opened is one error, not the SDK's groups of them.

    Args:
        server: As the SDK's client takes it.
        place: What errors call it.
        statuses: Of the HTTP answers so far, as they come.
    """
    from mcp import Client
    from mcp_types import Implementation

    # Under the SDK's own name a server would take it for an impatient client, and hold its answers for less.
    name = Implementation(name="raincheck", version=__version__)
    opened = False
    try:
        async with Client(server, cache=None, client_info=name) as connected:
            opened = True
            yield connected
    except Exception as error:
        refused = next((status for status in statuses if status in _REFUSALS), None)
        if opened or not (refused or lost_connection(error)):
            raise
        if refused:
            raise ConnectionLost(f"{place}: {refused}: {_REFUSALS[refused]}", retryable=False) from None
        raise ConnectionLost(f"{place} does not answer: {_first_of(error)}") from None


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
