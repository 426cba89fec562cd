"""What the tests of PostgreSQL's failures share: locks, ways that forget, and what every verb is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from stores.records import after, claimed, new_task
from stores.renewals import Renew

from raincheck.domain.task import Task
from raincheck.errors import StoreUnavailable
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import PendingLimit, TaskQuery
from raincheck.stores.postgres.store import PostgresStore
from support.proxy import Listener
from support.servers.postgres import PostgresServer

__all__ = ["SECONDS", "SLACK", "Forgetful", "all_verbs", "by", "locked", "refused"]

COUNTERS = "SELECT FROM raincheck.task_count FOR UPDATE"
SECONDS = 2.0
"""The stores' timeout in these tests."""

# What the event loop and a busy machine may add.
SLACK = 2.0


def by(way: Listener, server: PostgresServer) -> str:
    return server.url.replace(str(server.port), str(way.port))


@contextmanager
def locked(server: PostgresServer, lock: LiteralString = COUNTERS) -> Generator[Callable[[int], None]]:
    """No write gets further than that lock in the block; yields what waits until so many writes wait."""
    with psycopg.connect(server.url) as holder, psycopg.connect(server.url, autocommit=True) as observer:
        holder.execute(lock)

        def until(number: int) -> None:
            give_up_at = time.monotonic() + 5
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while observer.execute(query).fetchall()[0][0] < number:
                assert time.monotonic() < give_up_at
                time.sleep(0.01)

        yield until


async def refused(calls: list[Awaitable[object]]) -> list[str]:
    """What they were told, each an error within the timeout."""
    started = time.monotonic()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < SECONDS + SLACK
    assert [type(answer) for answer in answers] == [StoreUnavailable] * len(answers)
    return [str(answer) for answer in answers]


def all_verbs(store: PostgresStore, task: Task, *renewals: Renew) -> list[Awaitable[object]]:
    return [
        *(store.insert(new_task(idempotency_key="k")) for _ in range(5)),
        store.insert(new_task(), pending_limit=PendingLimit(total=1000, per_scope=1000)),
        store.replace(claimed(task)),
        store.get(task.task_ref),
        store.claimable(["report"], 5),
        store.overdue(after(0), 5),
        store.purge(after(0), 5),
        store.list(TaskQuery()),
        store.count(),
        store.versions([task.task_ref]),
        store.time(),
        store.get_record("sketch", "k"),
        store.put_record(Record(kind="sketch", key="k", value=1)),
        store.remove_record(Record(kind="sketch", key="none", value=1)),
        store.records(RecordQuery("sketch")),
        *(renew("w", {task.task_ref: 1}, after(30)) for renew in (*renewals, store.renew)),
    ]


class Forgetful(Listener):
    """A way to a port on which connections can die in silence."""

    def __init__(self, upstream: int) -> None:
        super().__init__()
        self._upstream = upstream
        self._pumps: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Pass nothing more on, for those that are connected now."""
        for pump in self._pumps:
            pump.cancel()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Listener.converse`."""
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        pumps = {asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))}
        self._pumps |= pumps
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if any(pump.cancelled() for pump in done):
                await asyncio.Event().wait()
        finally:
            self._pumps -= pumps
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
