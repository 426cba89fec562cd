"""Keeps this worker's leases alive from a thread of its own, and watches the event loop.

A blocked event loop must not lose the leases of healthy tasks, so the renewal does not run on it. A hung one must not
hold them for ever, so the renewal ends when the loop has not answered for `hang_seconds`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from raincheck.errors import StoreError
from raincheck.runner import Runner
from raincheck.store import TaskStore

__all__ = ["Heartbeat"]

logger = logging.getLogger(__name__)


class Heartbeat:
    """Renews the leases of a runner every third of their length.

    Args:
        hang_seconds: How long the event loop may be silent before its tasks are given up.
    """

    def __init__(
        self,
        store: TaskStore,
        runner: Runner,
        *,
        worker_id: str,
        lease_seconds: float,
        clock: Callable[[], datetime],
        hang_seconds: float,
    ) -> None:
        self._store = store
        self._runner = runner
        self._worker_id = worker_id
        self._lease = timedelta(seconds=lease_seconds)
        self._interval = lease_seconds / 3
        self._clock = clock
        self._hang_seconds = hang_seconds
        self._ended = threading.Event()
        self._answered_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin; called on the event loop to be watched."""
        self._loop = asyncio.get_running_loop()
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._beat_for_ever, name="raincheck-heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _answer(self) -> None:
        self._answered_at = time.monotonic()

    def _beat_for_ever(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._beat()
            except StoreError as error:
                logger.warning("cannot renew leases: %s", error.message)
            except RuntimeError:
                # The event loop is closed: the process is ending.
                return
            except Exception:  # the thread must outlive a bug: without it every lease is lost
                logger.exception("a heartbeat failed")

    def _beat(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._answer)
        silent = time.monotonic() - self._answered_at
        if silent > 2 * self._interval:
            logger.warning("the event loop has not answered for %.0f s: an operation blocks it", silent)
        if silent > self._hang_seconds:
            logger.critical("the event loop hangs: its tasks are given up to other workers")
            return
        leases = self._runner.leases
        if not leases:
            return
        lost = self._store.renew(self._worker_id, leases, self._clock() + self._lease)
        if lost:
            self._loop.call_soon_threadsafe(self._runner.lost, lost)
