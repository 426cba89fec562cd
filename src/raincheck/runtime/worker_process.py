"""A process that only runs tasks: started, watched, drained and ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from raincheck.errors import ConfigurationError, RaincheckError, StoreError
from raincheck.runtime.health import Health, answering
from raincheck.runtime.listening import raise_descriptor_limit
from raincheck.runtime.local_worker import RETIRE, Hold
from raincheck.runtime.service import Service
from raincheck.runtime.signals import notify, stop_requested
from raincheck.timing.clock import monotonic, utc_now

logger = logging.getLogger(__name__)

_UNTIL_DONE_SECONDS = 7 * 24 * 3600.0
"""The drain of a worker that is to finish what runs: tasks have deadlines, which end first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a worker has to do.

    Attributes:
        service: Runs while its block does.
        operations: The names of those that it can run, once the service is started.
        place: The store and the engine, as a person is told of them.
        health_host, health_port: Where its health can be asked; port 0: nowhere.
        hold: The lock of the local worker, None for any other.
        idle_seconds: How long the local worker waits for new work.
    """

    service: AbstractAsyncContextManager[Service]
    operations: Callable[[], Collection[str]]
    place: str
    health_host: str
    health_port: int
    hold: Hold | None = None
    idle_seconds: float = field(default=float("inf"))


async def run_worker(work: Work) -> int:
    """Run tasks until told to stop, then drain; the exit code.

    Raises:
        ConfigurationError: There is no operation to run.
        RaincheckError: The store cannot be opened, or the health port not be listened on.
    """
    raise_descriptor_limit()
    told, began = stop_requested(), f"{utc_now():%Y-%m-%dT%H:%M:%SZ}"
    retired = asyncio.Event()
    if work.hold is not None:
        if RETIRE is not None:
            asyncio.get_running_loop().add_signal_handler(RETIRE, retired.set)
        work.hold.say(began, ready=False)
    health = Health()
    async with AsyncExitStack() as stack:
        # Before any task is taken up: a worker that cannot be watched runs none.
        if work.health_port:
            await _listen(stack, health, work)
        service = await stack.enter_async_context(work.service)
        number = len(work.operations())
        if not number:
            raise ConfigurationError("this Raincheck object has no operation that a worker could run")
        health.service = service
        # As in `raincheck serve`: a full collection of what was imported costs tens of milliseconds.
        gc.freeze()
        notify("READY=1")
        operations = f"{number} operation{'s' * (number != 1)}"
        print(f"raincheck: worker {service.worker_id} runs {operations} {work.place}", file=sys.stderr, flush=True)
        if work.hold is not None:
            work.hold.say(began, ready=True)
        finishes = await _until_the_end(work, service, told, retired)
        logger.info("told to stop", extra={"worker_id": service.worker_id})
        notify("STOPPING=1")
        if work.hold is not None:
            # From now on another one may take up tasks.
            work.hold.release()
        await service.stop(_UNTIL_DONE_SECONDS if finishes else None)
    return 0


async def _until_the_end(work: Work, service: Service, told: asyncio.Event, retired: asyncio.Event) -> bool:
    """Wait for the reason to end; whether what runs is to be finished first."""
    waiting: list[asyncio.Task[Any]] = [asyncio.create_task(told.wait()), asyncio.create_task(retired.wait())]
    if work.hold is not None:
        waiting.append(asyncio.create_task(_idle(work.hold, service, work.idle_seconds)))
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    return not (told.is_set() or (work.hold is not None and work.hold.lost))


async def _idle(hold: Hold, service: Service, seconds: float) -> None:
    """Wait until there has been no work for that time, and let the lock go; or until the files are gone."""
    last = monotonic()
    while True:
        await asyncio.sleep(min(1.0, seconds / 4))
        if hold.lost:
            # No server can find this worker any more, and the next one starts another.
            logger.warning("the lock file of this worker is gone")
            return
        try:
            if await service.has_work():
                last = monotonic()
            elif monotonic() - last >= seconds:
                hold.release()
                # What a server accepted before it could see the lock gone is still this worker's.
                if not await service.has_work() or not hold.take():
                    logger.info("no work for %g s", seconds)
                    return
                last = monotonic()
        except StoreError as error:
            logger.warning("cannot look for work: %s", error.message)
            if not service.running and monotonic() - last >= seconds:
                return


async def _listen(stack: AsyncExitStack, health: Health, work: Work) -> None:
    try:
        await stack.enter_async_context(answering(health, work.health_host, work.health_port))
    except OSError as error:
        where = f"{work.health_host}:{work.health_port}"
        raise RaincheckError(f"cannot answer for this worker's health on {where}: {error.strerror or error}") from None
