"""The background loop: started, repeated with jitter or when woken, stopped with what it is doing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextvars import Context

from raincheck.errors import StoreError

logger = logging.getLogger(__name__)


class BackgroundLoop:
    """Repeats `work` on the event loop. An error ends one round, never the loop: the next round comes all the same.

    Args:
        name: The name of its asyncio task.
        work: One round.
        pause: The seconds until the next round; each is spread by a fifth, so that processes that were started together
            do not work in step.
        doing: What a round does, for the log: "cannot {doing}: …" where the store does not answer.
        level: Of that line; a bug in a round is always logged with its traceback.
        at_once: Whether the first round comes before the first pause.

    Attributes:
        woken: Whether `wake` brought about the present round, not the pause.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        pause: Callable[[], float],
        doing: str,
        level: int = logging.WARNING,
        at_once: bool = True,
    ) -> None:
        self._name = name
        self._work = work
        self._pause = pause
        self._doing = doing
        self._level = level
        self._at_once = at_once
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.woken = False

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._task is not None

    def start(self) -> None:
        """Begin. Idempotent."""
        if self._task is None:
            self._wake = asyncio.Event()
            # No request's context: the loop outlives whichever happened to start it.
            self._task = asyncio.create_task(self._repeat(), name=self._name, context=Context())

    def wake(self) -> None:
        """Have the next round now, or right after the one under way."""
        self._wake.set()

    async def stop(self) -> None:
        """End, a round under way too. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _repeat(self) -> None:
        if not self._at_once:
            await self._rest()
        while True:
            self._wake.clear()
            try:
                await self._work()
            except StoreError as error:
                logger.log(self._level, "cannot %s: %s", self._doing, error.message)
            except Exception:
                logger.exception("a bug: cannot %s", self._doing)
            await self._rest()

    async def _rest(self) -> None:
        self.woken = True
        try:
            async with asyncio.timeout(self._pause() * random.uniform(0.8, 1.2)):  # noqa: S311  no secret
                await self._wake.wait()
        except TimeoutError:
            self.woken = False
