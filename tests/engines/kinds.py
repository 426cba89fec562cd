"""The engines that the suite runs over. A further engine is one more entry of `KINDS`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from raincheck.engines.local import local_engine
from raincheck.ports.engine import EngineFactory
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import Server

__all__ = ["DOCKET", "KINDS", "PROCRASTINATE", "QUEUES", "Kind", "Place", "end_servers", "query", "server_of"]

_DATABASE = 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """One queue on one server.

    Attributes:
        kind: What it is a queue of.
        server: Where it is; None for the engine that has none.
        name: The queue's name.
    """

    kind: Kind
    server: Any
    name: str

    def engine(self, reconcile_seconds: float = 60.0, **options: Any) -> EngineFactory:
        """The engine over this queue. By default what the queue loses is not found within a test."""
        return self.kind.make(self.server, self.name, reconcile_seconds, **options)

    def flush(self) -> None:
        """Everything that waits in the queue is gone."""
        self.kind.flush(self.server)

    def left(self) -> Sequence[str]:
        """What the queue holds for single tasks."""
        return self.kind.left(self.server, self.name)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One engine, as the suite makes it. `name` is in the tests' ids."""

    name: str
    server: type[Server] | None
    make: Callable[..., EngineFactory]
    flush: Callable[[Any], None]
    left: Callable[[Any, str], Sequence[str]]

    def missing(self) -> str | None:
        """Why there can be none here, or None."""
        missing: Callable[[], str | None] | None = getattr(self.server, "missing", None)
        return missing() if missing is not None else None


_servers: dict[type[Server], Server] = {}


def server_of(kind: type[Server]) -> Server:
    """This test process's server of a kind, started at the first call, and started again where a test ended it."""
    server = _servers.get(kind)
    if server is None:
        server = kind()
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        _servers[kind] = server
    return server


def end_servers() -> None:
    """End them all."""
    while _servers:
        _servers.popitem()[1].close()


def query(server: PostgresServer, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What PostgreSQL answers."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def _docket(server: RedisServer, name: str, reconcile_seconds: float, **options: Any) -> EngineFactory:
    from raincheck.engines.docket.engine import docket_engine

    return docket_engine(server.database(_DATABASE), name=name, reconcile_seconds=reconcile_seconds, **options)


def _docket_left(server: RedisServer, name: str) -> list[str]:
    """Entries of the stream, and keys of single tasks (the queue itself has a few)."""
    with contextlib.closing(server.client(_DATABASE)) as client:
        entries: Any = client.xrange(f"{name}:stream")
        keys: Any = client.keys(f"{name}:*")  # pyright: ignore[reportUnknownMemberType]
        own = {f"{name}:stream", f"{name}:workers", f"{name}:task-workers:raincheck_task"}
        others = [key.decode() for key in keys if key.decode() not in own and client.pttl(key) == -1]
        return [entry[0].decode() for entry in entries] + others


def _procrastinate(server: PostgresServer, name: str, reconcile_seconds: float, **options: Any) -> EngineFactory:
    from raincheck.engines.procrastinate.engine import procrastinate_engine

    return procrastinate_engine(server.url, name=name, reconcile_seconds=reconcile_seconds, **options)


def _procrastinate_flush(server: PostgresServer) -> None:
    query(server, "DELETE FROM raincheck_queue.procrastinate_jobs")


def _procrastinate_left(server: PostgresServer, name: str) -> list[str]:
    """Rows of jobs, and of what happened to jobs of any queue that are not there."""
    jobs = query(server, "SELECT id, status FROM raincheck_queue.procrastinate_jobs WHERE queue_name = %s", name)
    events = query(
        server,
        "SELECT id FROM raincheck_queue.procrastinate_events"
        " WHERE job_id NOT IN (SELECT id FROM raincheck_queue.procrastinate_jobs)",
    )
    return [f"job {row}" for row in jobs] + [f"event {row}" for row in events]


def _local(server: None, name: str, reconcile_seconds: float) -> EngineFactory:
    return local_engine


LOCAL = Kind(
    name="local",
    server=None,
    make=_local,
    flush=lambda server: None,
    left=lambda server, name: [],
)
DOCKET = Kind(
    name="docket",
    server=RedisServer,
    make=_docket,
    flush=lambda server: server.flush(_DATABASE),
    left=_docket_left,
)
PROCRASTINATE = Kind(
    name="procrastinate",
    server=PostgresServer,
    make=_procrastinate,
    flush=_procrastinate_flush,
    left=_procrastinate_left,
)

QUEUES = (DOCKET, PROCRASTINATE)
KINDS = (LOCAL, *QUEUES)
