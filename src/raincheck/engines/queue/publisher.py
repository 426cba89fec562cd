"""The queue publisher: hands tasks to a queue in the background, in batches, so that no submission waits for the queue.

What cannot be sent is dropped: the store has the task, and workers find it there a little later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from raincheck.domain.task import Task
from raincheck.timing.background import BackgroundLoop

logger = logging.getLogger(__name__)

_BATCH = 500
_LONGEST_BUFFER = 20_000
_SEND_SECONDS = 5.0
_CALM_SECONDS = 5.0


class QueueUnavailable(Exception):
    """The queue does not answer, or not as it should; trying again may help. One line, without a secret."""


class QueueRefused(QueueUnavailable):
    """The queue answered, and will never take us as we are set: a wrong password, a missing right or database."""


class Outage:
    """Tells the log once that the queue is away, and once that it is back, however many notice it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failed_at: float | None = None

    @property
    def going_on(self) -> bool:
        """Whether the queue is away, as far as is known."""
        return self._failed_at is not None

    def failed(self, error: Exception) -> None:
        """A call of the queue failed."""
        if self._failed_at is None:
            logger.warning("%s is away: %s. Workers take pending tasks from the store meanwhile.", self._what, error)
        self._failed_at = time.monotonic()

    def answered(self) -> None:
        """The queue answers; the outage is over once no call has failed for a while."""
        if self._failed_at is not None and time.monotonic() - self._failed_at > _CALM_SECONDS:
            self._failed_at = None
            logger.warning("%s is back", self._what)


class QueuePublisher:
    """A bounded buffer, and the one background task that empties it.

    Args:
        send: Hands tasks to the queue, all of them.
        outage: Told where the queue fails.
    """

    def __init__(self, send: Callable[[Sequence[Task]], Awaitable[None]], outage: Outage) -> None:
        self._send = send
        self._outage = outage
        self._buffer: deque[Task] = deque()
        self._ended = False
        self._loop = BackgroundLoop("sender", self._send_all, purpose="hand tasks to the queue")

    def start(self) -> None:
        """Begin to send."""
        self._loop.start()

    def put(self, task: Task) -> None:
        """Send this task soon. Never waits, never fails."""
        if self._ended or len(self._buffer) >= _LONGEST_BUFFER:
            return
        self._buffer.append(task)
        self._loop.wake()

    async def flush(self, seconds: float) -> None:
        """Take no more, and send what is left, for up to `seconds`."""
        if not self._ended:
            self._ended = True
            await self._loop.drain(seconds)

    async def stop(self) -> None:
        """End. Idempotent."""
        await self._loop.stop()

    async def _send_all(self) -> None:
        while self._buffer:
            await self._send_batch([self._buffer.popleft() for _ in range(min(_BATCH, len(self._buffer)))])

    async def _send_batch(self, batch: Sequence[Task]) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._send(batch)
        except QueueUnavailable as error:
            self._outage.failed(error)
        except TimeoutError:
            self._outage.failed(QueueUnavailable(f"it did not take what was sent within {_SEND_SECONDS:g} s"))
        except Exception:  # the loop must outlive a bug; the tasks are found in the store
            logger.exception("cannot hand %d tasks to the queue", len(batch))
