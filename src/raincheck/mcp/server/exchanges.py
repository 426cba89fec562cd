"""Exchanges of streamable HTTP: a session is refused before it is made, and an answer counts until it is taken.

The SDK's session manager has no bound for one caller, and hands an answer to its connection in one piece: the request
is over while megabytes of it wait for a reader. `guard` puts this in front of a manager, behind the authentication.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import INTERNAL_ERROR
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raincheck.domain.task import TaskError
from raincheck.errors import RateLimited
from raincheck.mcp.admission.slots import Places
from raincheck.mcp.auth.scopes import scope_of_request

_NOTED = "raincheck.exchange"
_PIECE = 64 * 1024
_SESSION_ID = MCP_SESSION_ID_HEADER.encode()
_VERSION = MCP_PROTOCOL_VERSION_HEADER.encode()
_WITH_SESSIONS = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)


class Held(Protocol):
    """What is held until an exchange is over."""

    def made(self) -> None:
        """The answer is made, and begins to be sent."""
        ...

    def release(self) -> None:
        """It is over."""
        ...


class Exchange:
    """One HTTP request and its answer.

    Attributes:
        received: How many bytes the request's body has.
        opening: Whether it has the place of the session that it opens, which the one that takes it over sets to False.
    """

    __slots__ = ("_ended", "_held", "opening", "received")

    def __init__(self) -> None:
        self.received = 0
        self.opening = False
        self._held: list[Held] = []
        self._ended = False

    @classmethod
    def of(cls, request: Any) -> Exchange | None:
        """The exchange of a request; None where nothing guards it, or it came by no HTTP."""
        scope: dict[str, Any] = getattr(request, "scope", None) or {}
        return scope.get(_NOTED)

    def keep(self, held: Held) -> None:
        """Release it when the exchange is over: at once, where it is."""
        if self._ended:
            held.release()
        else:
            self._held.append(held)

    def made(self) -> None:
        """The answer, or a part of it, is made."""
        for each in self._held:
            each.made()

    def end(self) -> None:
        """The answer was taken, or its caller has gone."""
        self._ended = True
        self.made()
        for each in self._held:
            each.release()
        self._held.clear()


class _Guard:
    """A session manager's application with bounds."""

    def __init__(self, app: ASGIApp, sessions: Places, *, stateless: bool) -> None:
        self._app = app
        self._sessions = sessions
        self._stateless = stateless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[_NOTED] = Exchange()
        owner = scope_of_request(Request(scope))
        if not self._stateless and _opens_session(scope):
            try:
                self._sessions.take(owner)
            except RateLimited as error:
                await _refuse(error, send)
                return
            exchange.opening = True

        async def counted() -> Message:
            message = await receive()
            exchange.received += len(message.get("body", b""))
            return message

        try:
            await self._app(scope, counted, _in_pieces(send, exchange))
        finally:
            exchange.end()
            if exchange.opening:
                exchange.opening = False
                self._sessions.give_back(owner)


def guard_managers(request: Any, sessions: Places) -> bool:
    """Guard the session managers of the application that this request came through; whether there are any."""
    found = False
    for route in getattr(request.scope.get("app"), "routes", ()):
        manager = _manager_of(getattr(route, "endpoint", None) or getattr(route, "app", None))
        if manager is not None:
            found = True
            if not isinstance(manager.asgi_app, _Guard):
                manager.asgi_app = _Guard(manager.asgi_app, sessions, stateless=manager.stateless)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _manager_of(app: Any) -> StreamableHTTPSessionManager | None:
    while app is not None:
        owner = getattr(app, "session_manager", None) or getattr(app, "__self__", None)
        if isinstance(owner, StreamableHTTPSessionManager):
            return owner
        app = getattr(app, "app", None)
    return None


def _opens_session(scope: Scope) -> bool:
    version = None
    for name, value in scope["headers"]:
        if name == _SESSION_ID:
            return False
        version = value if name == _VERSION and version is None else version
    return version is None or version in _WITH_SESSIONS


def _in_pieces(send: Send, exchange: Exchange) -> Send:
    """`send` in pieces: each waits until the connection has taken enough of those before it."""

    async def pieces(message: Message) -> None:
        body: bytes = message.get("body", b"")
        exchange.made()
        if message["type"] != "http.response.body" or len(body) <= _PIECE:
            await send(message)
            return
        whole, more = memoryview(body), message.get("more_body", False)
        for at in range(0, len(body), _PIECE):
            piece = bytes(whole[at : at + _PIECE])
            await send({**message, "body": piece, "more_body": more or at + _PIECE < len(body)})

    return pieces


async def _refuse(error: RateLimited, send: Send) -> None:
    told = TaskError.from_exception(error).public()
    message = {"code": INTERNAL_ERROR, "message": told.pop("message"), "data": told}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(round(error.details["retry_after_seconds"])).encode()),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body})
