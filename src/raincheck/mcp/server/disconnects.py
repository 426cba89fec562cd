"""Disconnects: a call over HTTP is cancelled when its caller hangs up.

The SDK's exchanges answer in one piece and do not look at their connection meanwhile. Only calls that take a while are
watched: the others cost a timer. Those that stream end by themselves; for them it is only recorded that the caller
    left.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SOON_SECONDS = 0.1
_NOTED = "raincheck.domain.caller"


class _Caller:
    """Whether the caller of one request has left."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = False


def hung_up(request: Any) -> bool:
    """Whether the caller of a request that is being cancelled has left: not so where the server ends it.

    In another application, which records nothing, every such request counts as left.
    """
    scope: dict[str, Any] = getattr(request, "scope", {})
    caller: _Caller | None = scope.get(_NOTED)
    return caller is None or caller.left


def noting_hang_ups(app: ASGIApp) -> ASGIApp:
    """The application, which itself ends what its caller has left; for `hung_up`."""

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope[_NOTED] = _Caller()

        async def watched() -> Message:
            message = await receive()
            caller.left = caller.left or message["type"] == "http.disconnect"
            return message

        await app(scope, watched, send)

    return noting


class _Exchange:
    """One request under way."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.caller = _Caller()
        self.hung_up = False
        self._receive = receive
        self._send = send
        self._whole = False
        self._answering = False
        self._watcher: asyncio.Task[None] | None = None
        self._call = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._watch)

    async def receive(self) -> Message:
        message = await self._receive()
        self.caller.left = self.caller.left or message["type"] == "http.disconnect"
        self._whole = self._whole or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        # An answer that streams looks at its connection itself.
        self._answering = True
        await self._send(message)

    def _watch(self) -> None:
        if self._answering:
            return
        if self._whole:
            self._watcher = asyncio.create_task(self._until_hung_up(), name="raincheck-hang-up")
        else:
            self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._watch)

    async def _until_hung_up(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answering and self._call is not None:
            self.hung_up = self.caller.left = True
            self._call.cancel()

    def end(self) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()


def ending_with_its_caller(app: ASGIApp) -> ASGIApp:
    """The application, each of its calls cancelled when the caller hangs up before the answer begins."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        scope[_NOTED] = exchange.caller
        try:
            await app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.hung_up:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        finally:
            exchange.end()

    return watched
