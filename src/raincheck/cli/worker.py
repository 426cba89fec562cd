"""`raincheck worker`: a process that only runs tasks."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from raincheck.cli.options import TARGET, state_url_option
from raincheck.cli.target import target_from
from raincheck.errors import ConfigurationError, RaincheckError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from contextlib import AbstractAsyncContextManager

    from raincheck.cli.target import Target
    from raincheck.config.settings import Settings
    from raincheck.operations.operation import Operation
    from raincheck.runtime.service import Service
    from raincheck.runtime.worker_process import Work


@click.command()
@click.argument("target", required=False, metavar="[CONFIG | MODULE:RAINCHECK]", type=TARGET)
@click.option("--max-concurrency", type=click.IntRange(1, 100_000), help="How many tasks run at once; default: 50.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0, 3600),
    help="How long running tasks may go on when told to stop; default: 5.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    help="Answer /healthz and /readyz on this port; default: 0, nowhere.",
)
@click.option("--health-host", help="The address to answer them on; default: 127.0.0.1.")
@state_url_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    help="The least severe lines that are logged, to stderr; default: info.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Lines for people, or one JSON object on each line; default: text.",
)
def worker(
    target: str | None,
    max_concurrency: int | None,
    drain_seconds: float | None,
    health_port: int | None,
    health_host: str | None,
    state_url: str | None,
    log_level: str | None,
    log_format: str | None,
) -> int:
    """Run the tasks of a store that servers and workers share.

    CONFIG is the configuration of the server whose tasks it runs; by default raincheck.toml in this folder. In its
    place MODULE:RAINCHECK names the Raincheck object of a server in Python; this folder is importable.

    Told to stop (SIGTERM, SIGINT), it takes nothing new, lets running tasks finish within the drain, gives back the
    others, and ends with 0; told once more, it ends at once.

    \b
    Examples:
      raincheck worker
      raincheck worker reports.toml --max-concurrency 8 --drain-seconds 60
      raincheck worker office:rc --health-port 8081
    """
    flags = {
        "execution__max_concurrency": max_concurrency,
        "execution__drain_seconds": drain_seconds,
        "worker__health_port": health_port,
        "worker__health_host": health_host,
        "observability__log_level": log_level,
        "observability__log_format": log_format,
    }
    settings, work = _work(target_from(target, state_url=state_url, **flags))
    from raincheck.domain.logs import configure_logs
    from raincheck.runtime.worker_process import run_worker

    log = settings.observability
    configure_logs(log.log_level, log.log_format, tasks=log.log_tasks)
    runner = asyncio.Runner()
    try:
        code = runner.run(run_worker(work))
    except RaincheckError:
        # It did not start, so there is nothing to wait for.
        runner.close()
        raise
    # Closing the runner, or the interpreter, would wait for threads of operations that will not stop.
    sys.stderr.flush()
    os._exit(code)


def _work(target: Target) -> tuple[Settings, Work]:
    from raincheck.composition.operations import make_operations
    from raincheck.runtime.worker_process import Work

    settings = target.settings
    service: AbstractAsyncContextManager[Service]
    if (rc := target.rc) is not None:
        service, names = rc.working(settings), lambda: rc.operations
    else:
        target.refuse_memory("its tasks exist inside the server only, no worker can run them")
        operations = _as_served(make_operations(settings))
        if not operations:
            raise ConfigurationError(f"{settings.source} declares no operation that a worker could run")
        service, names = _running(settings, operations), lambda: operations
    if settings.execution.max_concurrency == 0:
        raise ConfigurationError(
            f"'max_concurrency' in [execution] of {settings.source} is 0, which is a server that only accepts; "
            "a worker needs at least 1 (--max-concurrency)"
        )
    store, engine = target.place()
    work = Work(
        service=service,
        operations=names,
        place=f"of {store} with the engine {engine}",
        health_host=settings.worker.health_host,
        health_port=settings.worker.health_port,
    )
    return settings, work


def _as_served(operations: dict[str, Operation]) -> dict[str, Operation]:
    """With the SDK there, an operation's JSON-RPC error is its task's, as in a server; without it there is none."""
    try:
        from raincheck.mcp.wire.protocol_errors import KeepsProtocolErrors
    except ImportError:
        return operations
    return {name: replace(each, executor=KeepsProtocolErrors(each.executor)) for name, each in operations.items()}


@asynccontextmanager
async def _running(settings: Settings, operations: Mapping[str, Operation]) -> AsyncGenerator[Service]:
    from raincheck.composition.adapters import make_engine, make_store, service_settings
    from raincheck.runtime.service import Service

    service = Service(
        make_store(settings),
        operations,
        service_settings(settings),
        engine=make_engine(settings),
    )
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
