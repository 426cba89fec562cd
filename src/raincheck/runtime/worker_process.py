"""A process that only runs tasks: started, watched, drained and ended."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from raincheck.errors import ConfigurationError, RaincheckError
from raincheck.runtime.health import Health, answering
from raincheck.runtime.listening import raise_descriptor_limit
from raincheck.runtime.service import Service
from raincheck.runtime.signals import notify, stop_requested

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a worker has to do.

    Attributes:
        service: Runs while its block does.
        operations: The names of those that it can run, once the service is started.
        place: The store and the engine, as a person is told of them.
        health_host, health_port: Where its health can be asked; port 0: nowhere.
    """

    service: AbstractAsyncContextManager[Service]
    operations: Callable[[], Collection[str]]
    place: str
    health_host: str
    health_port: int


async def run_worker(work: Work) -> int:
    """Run tasks until told to stop, then drain; the exit code.

    Raises:
        ConfigurationError: There is no operation to run.
        RaincheckError: The store cannot be opened, or the health port not be listened on.
    """
    raise_descriptor_limit()
    told = stop_requested()
    health = Health()
    async with AsyncExitStack() as stack:
        # Before any task is taken up: a worker that nobody can watch is to run none.
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
        await told.wait()
        logger.info("told to stop", extra={"worker_id": service.worker_id})
        notify("STOPPING=1")
        await service.stop()
    return 0


async def _listen(stack: AsyncExitStack, health: Health, work: Work) -> None:
    try:
        await stack.enter_async_context(answering(health, work.health_host, work.health_port))
    except OSError as error:
        where = f"{work.health_host}:{work.health_port}"
        raise RaincheckError(f"cannot answer for this worker's health on {where}: {error.strerror or error}") from None
