"""How many bytes of request bodies are under way at once, in the whole process.

A body is paid for before it is read, and given back when its request is answered: what is parsed from it lives as
long. So nothing is read of those that wait, and all that is begun can be read to its end. Small bodies are free: the
calls of others go on beside any number of large ones.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raincheck.mcp.server.plain_responses import refuse

_FREE_BYTES = 65_536
_UNKNOWN_BYTES = 4 * 1024 * 1024
"""Of a body that does not say how long it is: as long as a message may be."""

_LONGEST_LENGTH = 20
_WAIT_SECONDS = 20.0

_BYTES_PER_SECOND = 8 * 1024 * 1024
"""What is read of large bodies, all together: parsing them takes no more than a share of the event loop's time."""


class BodyBudget:
    """The bytes, and who waits for some.

    Args:
        total: The most at once. A larger body is under way alone.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._left = total
        self._read_until = 0.0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def within(self, app: ASGIApp, *, largest: int = _UNKNOWN_BYTES) -> ASGIApp:
        """The application, whose requests' bodies are within the budget.

        Nothing is taken before the application asks for a body: it asks who calls first.

        Args:
            app: It reads at most `largest` bytes of a body, however long that says to be.
            largest: So much is taken for a body that is longer, or does not say how long it is.
        """

        async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
            size = _announced(scope, largest) if scope["type"] == "http" else 0
            if size <= _FREE_BYTES:
                await app(scope, receive, send)
                return
            share = _Share(self, size, receive, send)
            try:
                await app(scope, share.receive, share.send)
            except Exception:
                if not share.refused:
                    raise
            finally:
                share.give_back()
            if share.refused:
                await refuse(send, 503, "too many large requests at once; call again", retry_after=1)

        return bounded

    async def take(self, size: int) -> int:
        """Wait for so many bytes, in turn; how many were taken.

        Raises:
            TimeoutError: There were none for too long.
        """
        size = min(size, self.total)
        if not self._waiting and size <= self._left:
            self._left -= size
            return size
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (size, turn)
        self._waiting.append(place)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            else:
                self._waiting.remove(place)
                self.give_back(0)
            raise
        return size

    async def paced(self, size: int) -> None:
        """So many bytes of a large body were read: wait until it is their turn to be worked on."""
        now = asyncio.get_running_loop().time()
        self._read_until = max(now, self._read_until) + size / _BYTES_PER_SECOND
        await asyncio.sleep(self._read_until - now)

    def give_back(self, size: int) -> None:
        """So many are free again."""
        self._left += size
        while self._waiting and self._waiting[0][0] <= self._left:
            taken, turn = self._waiting.popleft()
            self._left -= taken
            turn.set_result(None)


class _Share:
    """One request's bytes."""

    def __init__(self, budget: BodyBudget, size: int, receive: Receive, send: Send) -> None:
        self.refused = False
        self._budget = budget
        self._size = size
        self._receive = receive
        self._send = send
        self._asked = False
        self._taken = 0
        self._came = 0

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            try:
                self._taken = await self._budget.take(self._size)
            except TimeoutError:
                self.refused = True
        if self.refused:
            # The application ends, and what it still says is dropped.
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._came += len(message.get("body", b""))
            await self._budget.paced(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._keep(self._came)
        return message

    async def send(self, message: Message) -> None:
        if not self.refused:
            await self._send(message)

    def _keep(self, size: int) -> None:
        """The body is whole, and no longer than that."""
        kept = size if size > _FREE_BYTES else 0
        if kept < self._taken:
            self._budget.give_back(self._taken - kept)
            self._taken = kept

    def give_back(self) -> None:
        self._budget.give_back(self._taken)
        self._taken = 0


def _announced(scope: Scope, largest: int) -> int:
    """How much is read of the request's body at the most, as far as its headers say."""
    size = 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            # h11 takes up to 20 digits, and zeros before them.
            return min(int(value), largest) if value.isdigit() and len(value) <= _LONGEST_LENGTH else largest
        if name == b"transfer-encoding":
            size = largest
    return size
