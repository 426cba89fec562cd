"""The background loop: one start, one pause, one end, for all repeated work of a process."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from time import monotonic

from raincheck.errors import StoreError

logger = logging.getLogger(__name__)

_JITTER = 0.2
_REST_SECONDS = 0.05
_LONGEST_REST_SECONDS = 30.0
_STOP_SECONDS = 5.0


class BackgroundLoop:
    """Repeats a step until it is stopped: after a pause, or as soon as it is woken.

    Pauses are jittered, so that processes that were started together do not work in step. An error of the store is
    logged and the loop goes on. A bug is logged with its traceback, and each one in a row doubles the time for which
    the loop rests whatever wakes it.

    Args:
        name: The asyncio task is named `raincheck-` and this.
        step: One pass. It returns the seconds to the next one where they differ from `seconds`.
        purpose: What the loop does, for the log: "cannot" and this.
        seconds: The pause; None: the step runs only when it is woken.
        at_once: Whether the first pass comes before the first pause.
        random_between: For the jitter.

    Attributes:
        woken: Whether the present pass was woken, and is not the one that was due.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[float | None]],
        *,
        purpose: str,
        seconds: float | None = None,
        at_once: bool = True,
        random_between: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.woken = False
        self._name = f"raincheck-{name}"
        self._step = step
        self._purpose = purpose
        self._seconds = seconds
        self._at_once = at_once
        self._random_between = random_between
        self._woken = asyncio.Event()
        self._draining = False
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the loop is started and not ended."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin, on the running event loop. Nothing where it runs already."""
        if not self.running:
            self._draining, self._woken = False, asyncio.Event()
            # The first caller may be a request, whose context variables must not live on here.
            self._task = asyncio.create_task(self._repeat(), name=self._name, context=Context())

    def wake(self) -> None:
        """End the present pause, or the next one where the step is running."""
        self._woken.set()

    async def drain(self, seconds: float) -> bool:
        """Let the step run once more, and end; whether that was within `seconds`. Then `stop` ends what goes on."""
        if self._task is not None:
            self._draining = True
            self._woken.set()
            await asyncio.wait({self._task}, timeout=seconds)
        return not self.running

    async def stop(self) -> None:
        """Cancel the step, and end within seconds even where the step swallows that. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        late = monotonic() + _STOP_SECONDS
        while not task.done():
            if monotonic() > late:
                logger.error("%s does not end", self._name)
                return
            task.cancel()
            await asyncio.wait({task}, timeout=_STOP_SECONDS / 5)

    async def _repeat(self) -> None:
        bugs = 0
        if not self._at_once:
            await self._pause(self._seconds)
        while True:
            last, rest, began = self._draining, 0.0, monotonic()
            self.woken = self._woken.is_set()
            self._woken.clear()
            pause: float | None = None
            try:
                pause = await self._step()
                bugs = 0
            except StoreError as error:
                logger.warning("cannot %s: %s", self._purpose, error.message)
                rest = _REST_SECONDS
            except Exception:  # a bug ends one pass; without the loop nothing does its work
                logger.exception("cannot %s", self._purpose)
                bugs = 1 if monotonic() - began > _LONGEST_REST_SECONDS else bugs + 1
                rest = min(_LONGEST_REST_SECONDS, _REST_SECONDS * 2 ** min(bugs, 10))
            if last or self._task is not asyncio.current_task():
                # Drained; or stopped, and the step swallowed it.
                return
            if not self._draining:
                await asyncio.sleep(rest)
                await self._pause(self._seconds if pause is None else pause, rest)

    async def _pause(self, seconds: float | None, rested: float = 0.0) -> None:
        if seconds is not None:
            seconds = seconds * self._random_between(1 - _JITTER, 1 + _JITTER) - rested
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
