"""The HTTP middleware of `raincheck serve`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raincheck.mcp.server.allowed_hosts import KnownNames
from raincheck.mcp.server.plain_responses import refuse

_STOPPING = "the server is stopping; call again"


def answered_at_the_stop(app: ASGIApp) -> ASGIApp:
    """The application, each of whose requests is answered as JSON also where the server breaks it off.

    One whose caller left before its body was whole ends without a word: that is the caller's own affair.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun = False

        async def recorded(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, recorded)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            if begun:
                raise
            await refuse(send, 503, _STOPPING, retry_after=1)

    return answered


def checked_heads(app: ASGIApp, names: KnownNames, *, path: str) -> ASGIApp:
    """The application, which is reached under known names only.

    Args:
        app: It answers at `path`.
        names: Those of `Host` and `Origin`.
        path: The same with a slash at its end is the same, without a redirect to whatever `Host` says.
    """

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if (problem := _problem(scope, names)) is not None:
                await refuse(send, *problem)
                return
            if scope["path"] == f"{path}/":
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return checked


def _problem(scope: Scope, names: KnownNames) -> tuple[int, str] | None:
    """The status and the message that refuse this head; None: it is in order."""
    host, bearers = "", 0
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"origin" and not names.knows_origin(value.decode("latin-1")):
            return 403, "this Origin is not allowed (allowed_origins)"
        elif name == b"authorization":
            bearers += 1
    if not names.knows_host(host):
        return 421, "this Host is not allowed (allowed_hosts)"
    if bearers > 1:
        # Which of them counts would be another program's choice: a proxy's, or the caller's.
        return 400, "there is more than one Authorization header"
    return None


def ending_with_its_token(app: ASGIApp) -> ASGIApp:
    """The application, whose event streams end when the token runs out by which they were opened."""

    async def ending(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        stream = _Stream(scope, receive, send)
        await app(scope, stream.receive, stream.send)
        await stream.close()

    return ending


class _Stream:
    """One request, whose answer may be a stream: seen from its application, the caller leaves at the token's end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._ends_at: float | None = None
        self._over = False
        self._open = False
        self._waiting: asyncio.Timeout | None = None

    async def receive(self) -> Message:
        if self._over:
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout_at(self._ends_at) as self._waiting:
                return await self._receive()
        except TimeoutError:
            self._over = True
            return {"type": "http.disconnect"}
        finally:
            self._waiting = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_stream(message):
            self._ends_at = _end_of_the_token(self._scope)
            if self._waiting is not None and self._ends_at is not None:
                self._waiting.reschedule(self._ends_at)
        self._open = message["type"] == "http.response.start" or message.get("more_body", False)
        await self._send(message)

    async def close(self) -> None:
        """End the stream in form, where its application took it for left."""
        if self._over and self._open:
            await self._send({"type": "http.response.body", "body": b""})


def _is_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"]
    )


def _end_of_the_token(scope: Scope) -> float | None:
    """When the caller's token runs out, by the event loop's clock; None: never, or none was asked for."""
    user: Any = scope.get("user")
    expires_at = user.access_token.expires_at if isinstance(user, AuthenticatedUser) else None
    if expires_at is None:
        return None
    return asyncio.get_running_loop().time() + max(0.0, expires_at - time.time())
