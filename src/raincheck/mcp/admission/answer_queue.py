"""Turns: of one scope's large answers one is made at a time, with pauses in which the event loop is for others.

To make a megabyte into JSON takes the loop some milliseconds, in which no other call is served. Readers of large
results would otherwise have the calls of others wait for theirs, again and again.
"""

from __future__ import annotations

import asyncio
from collections import deque

_PAUSE = 9.0
"""How much longer than a turn the pause after it is: a scope's large answers take a tenth of the loop at the most."""

_LONGEST_PAUSE_SECONDS = 0.25


class _Turn:
    """A scope's turn, which is taken, or over and in its pause."""

    __slots__ = ("began", "waiting")

    def __init__(self, began: float) -> None:
        self.began = began
        self.waiting: deque[asyncio.Future[None]] = deque()


class AnswerTurns:
    """Hands out one turn at a time to each scope."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    async def take(self, scope: str) -> None:
        """Wait for the scope's turn."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(scope)
        if turn is None:
            self._turns[scope] = _Turn(loop.time())
            return
        mine: asyncio.Future[None] = loop.create_future()
        turn.waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                self.give_back(scope)
            raise
        turn.began = loop.time()

    def give_back(self, scope: str) -> None:
        """It is the next one's, after the pause."""
        loop = asyncio.get_running_loop()
        pause = min(_LONGEST_PAUSE_SECONDS, _PAUSE * (loop.time() - self._turns[scope].began))
        loop.call_later(pause, self._next, scope)

    def _next(self, scope: str) -> None:
        waiting = self._turns[scope].waiting
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._turns[scope]
