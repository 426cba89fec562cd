"""`raincheck worker`: a process that only runs tasks, and the local one that a stdio server starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from raincheck.cli.options import TARGET, TargetGroup, is_object, json_option, or_the_groups, state_url_option
from raincheck.cli.output import clean, document
from raincheck.cli.target import target_from
from raincheck.errors import ConfigurationError, RaincheckError
from raincheck.runtime.local_worker import Hold

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from contextlib import AbstractAsyncContextManager

    from raincheck.cli.target import Target
    from raincheck.config.settings import Settings
    from raincheck.operations.operation import Operation
    from raincheck.ports.engine import EngineFactory
    from raincheck.runtime.local_worker import Presence, WorkerFiles
    from raincheck.runtime.service import Service
    from raincheck.runtime.worker_process import Work

_QUIET_SECONDS = 1.0

_target_argument = click.argument(
    "target", required=False, metavar="[CONFIG | MODULE:RAINCHECK]", type=TARGET, callback=or_the_groups
)


@click.group(cls=TargetGroup, default="run")
def worker() -> None:
    """Run the tasks of a store that servers and workers share, or look after the local worker. Without a COMMAND: run.

    \b
    Examples:
      raincheck worker reports.toml --max-concurrency 8
      raincheck worker status
      raincheck worker stop
    """


@worker.command()
@_target_argument
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
def run(
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
    hold = Hold.passed()
    settings, work = _work(target_from(target, state_url=state_url, **flags), hold)
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


@worker.command()
@_target_argument
@state_url_option
@json_option
def status(target: str | None, state_url: str | None, as_json: bool) -> None:
    """Say whether a local worker runs, and where its log is.

    A server on stdio starts one where the store is sqlite; it ends by itself when there has been no work for
    `idle_seconds` of [worker].

    \b
    Examples:
      raincheck worker status
      raincheck worker status reports.toml --json
    """
    files, found = _local(target, state_url)
    if as_json:
        document({"worker": None if found is None else asdict(found), "log": str(files.log)})
    elif found is None:
        click.echo(f"no local worker runs; its log: {clean(str(files.log))}")
    else:
        state = f"runs since {found.started_at}" if found.ready else "is starting"
        click.echo(f"local worker {found.pid} {state}; its log: {clean(str(files.log))}")


@worker.command()
@_target_argument
@state_url_option
@click.option("--now", is_flag=True, help="Do not wait for running tasks beyond `drain_seconds`.")
def stop(target: str | None, state_url: str | None, now: bool) -> int:
    """End the local worker: it takes up nothing more, finishes what runs, and ends; pending tasks stay.

    A server that is still open starts a new one when there is work.

    \b
    Examples:
      raincheck worker stop
      raincheck worker stop reports.toml --now
    """
    _, found = _local(target, state_url)
    if found is None:
        click.echo("no local worker runs")
        return 0
    if not found.ready:
        raise RaincheckError("the local worker is starting: try again in a second")
    from raincheck.runtime.local_worker import retire, wait_until_gone

    if now:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
    else:
        retire(found)
    if not wait_until_gone(found.pid, _QUIET_SECONDS):
        click.echo(f"local worker {found.pid} finishes what runs; it takes up nothing more", err=True)
        while not wait_until_gone(found.pid, _QUIET_SECONDS):
            pass
    click.echo(f"local worker {found.pid} ended")
    return 0


def _local(target: str | None, state_url: str | None) -> tuple[WorkerFiles, Presence | None]:
    """The files of the local worker of a target, and the worker where one lives."""
    from raincheck.composition.local_worker import worker_files
    from raincheck.runtime.local_worker import SUPPORTED, presence

    if not SUPPORTED:
        raise RaincheckError("there is no local worker on this platform")
    named = target_from(target, state_url=state_url)
    if named.settings.state.provider != "sqlite" or named.store_is_given:
        raise ConfigurationError("a local worker shares a file of SQLite, and this store is another")
    is_an_object = target is not None and is_object(target)
    files = worker_files(named.settings, target if is_an_object else None)
    try:
        return files, presence(files)
    except OSError as error:
        raise RaincheckError(f"cannot read {files.lock}: {error.strerror or error}") from None


def _work(target: Target, hold: Hold | None) -> tuple[Settings, Work]:
    from raincheck.composition.adapters import make_engine
    from raincheck.composition.operations import make_operations
    from raincheck.engines.local import listening_engine
    from raincheck.runtime.worker_process import Work

    settings = target.settings
    engine = make_engine(settings) if hold is None else listening_engine
    service: AbstractAsyncContextManager[Service]
    if (rc := target.rc) is not None:
        service, names = rc.working(settings, engine), lambda: rc.operations
    else:
        target.refuse_memory("its tasks exist inside the server only, no worker can run them")
        operations = _as_served(make_operations(settings))
        if not operations:
            raise ConfigurationError(f"{settings.source} declares no operation that a worker could run")
        service, names = _running(settings, operations, engine), lambda: operations
    if settings.execution.max_concurrency == 0:
        raise ConfigurationError(
            f"'max_concurrency' in [execution] of {settings.source} is 0, which is a server that only accepts; "
            "a worker needs at least 1 (--max-concurrency)"
        )
    store, engine_name = target.place()
    work = Work(
        service=service,
        operations=names,
        place=f"of {store} with the engine {engine_name}",
        health_host=settings.worker.health_host,
        health_port=settings.worker.health_port,
        hold=hold,
        idle_seconds=settings.worker.idle_seconds,
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
async def _running(
    settings: Settings, operations: Mapping[str, Operation], engine: EngineFactory
) -> AsyncGenerator[Service]:
    from raincheck.composition.adapters import make_store, service_settings
    from raincheck.runtime.service import Service

    service = Service(
        make_store(settings),
        operations,
        service_settings(settings),
        engine=engine,
    )
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
