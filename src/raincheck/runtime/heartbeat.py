"""Keeps this worker's leases alive from a thread of its own, watches the event loop, and fences this worker off.

A blocked event loop must not lose the leases of healthy tasks, so the renewal does not run on it. A hung one must not
hold them for ever, so the renewal ends when the loop has not answered for `hang_seconds`. A worker that stood still,
hung or was cut off for longer than a lease must not go on with what another one may have started: no step is taken
under a lease that was not renewed (`raincheck.operations.lease`), and the orphan reaper ends what runs in processes of
its own. What is left for here is to find out soon, and to give up what a worker that is cut off will not hear of: see
`_guard`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from raincheck.errors import StoreError
from raincheck.ports.task_store import LeaseRenewer, TaskStore
from raincheck.runtime.runner import Runner
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_LATE_SECONDS = 0.2
_LONGEST_CONFIRMATION = 2.0
_LOOK_SECONDS = 0.05


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
        self._lease_seconds = lease_seconds
        self._interval = lease_seconds / 3
        self._clock = clock
        self._hang_seconds = hang_seconds
        self._ended = False
        self._wake = asyncio.Event()
        self._patient_until = float("-inf")
        self._answered_at = monotonic()
        self._thread: threading.Thread | None = None
        self._beating: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin; called on the event loop to be watched."""
        self._loop = asyncio.get_running_loop()
        self._answered_at = monotonic()
        self._beating = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._beating,), name="raincheck-heartbeat", daemon=True
        )
        self._thread.start()
        self._set_timer()

    async def stop(self) -> None:
        """End the thread."""
        if self._timer is not None:
            self._timer.cancel()
        self._ended = True
        if self._thread is not None:
            self._beat_now()
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    # On the thread.

    def _answer(self) -> None:
        self._answered_at = monotonic()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._beat_loop())

    async def _beat_loop(self) -> None:
        pause = self._interval
        async with self._store.renewer() as renewer:
            while not self._ended:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                self._wake.clear()
                pause = self._interval
                try:
                    await self._beat(renewer)
                except StoreError as error:
                    logger.warning("cannot renew leases: %s", error.message)
                    pause = min(self._interval, _RETRY_SECONDS)
                except Exception:  # the thread must outlive a bug: without it every lease is lost
                    assert self._loop is not None
                    if self._loop.is_closed():
                        # The process is ending.
                        return
                    logger.exception("a heartbeat failed")

    async def _beat(self, renewer: LeaseRenewer) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._answer)
        silent = monotonic() - self._answered_at
        if silent > 2 * self._interval:
            logger.warning("the event loop has not answered for %.0f s: an operation blocks it", silent)
        if silent > self._hang_seconds:
            logger.critical("the event loop hangs: its tasks are given up to other workers")
            return
        leases = self._runner.leases
        if not leases:
            return
        asked = monotonic()
        until = self._clock() + timedelta(seconds=self._lease_seconds)
        lost = await renewer.renew(self._worker_id, leases, until, lease_seconds=self._lease_seconds)
        self._runner.renewed({ref: fence for ref, fence in leases.items() if ref not in lost}, asked)
        if lost:
            self._loop.call_soon_threadsafe(self._runner.lost, lost)

    # On the event loop.

    def _beat_now(self) -> None:
        assert self._beating is not None
        self._beating.call_soon_threadsafe(self._wake.set)

    def _set_timer(self) -> None:
        assert self._loop is not None
        first = self._runner.held_until()
        pause = self._lease_seconds / 4
        if first is not None:
            pause = min(pause, max(_LOOK_SECONDS, first - monotonic()))
        self._due = monotonic() + pause
        self._timer = self._loop.call_later(pause, self._guard)

    def _guard(self) -> None:
        """Look after the leases that are over, or nearly so.

        Their operations' steps wait by themselves. A process that stood still asks the store at once which tasks are
        still its own, and is patient for a while. One that is cut off from a store on the network ends what another
        worker may start meanwhile; what starts only once goes on, since no other worker will run it. A file that cannot
        be written is waited for: no other process can write it either.
        """
        now = monotonic()
        lapsed = self._runner.lapsed()
        if lapsed and now - self._due > _LATE_SECONDS:
            self._answered_at = now
            self._patient_until = now + min(_LONGEST_CONFIRMATION, self._lease_seconds)
            logger.warning("this process stood still: %d leases are to be confirmed", len(lapsed))
            self._beat_now()
        elif now > self._patient_until:
            for run in lapsed:
                if not run.may_start_elsewhere:
                    run.lease.tolerate()
            if self._store.capabilities.remote:
                self._runner.lost([run.task_ref for run in lapsed if run.may_start_elsewhere])
        self._set_timer()
