"""What other processes do to a PostgreSQL store in the tests: `python postgres_children.py VERB URL [ARGUMENT]`.

As in children.py: a child says `ready` when it is, does its work when a line comes in, and says what came of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

from stores.records import after, claimed, new_task, settled, stored

from raincheck.domain.task import KeyKind
from raincheck.errors import QueueFull
from raincheck.ports.records import Record
from raincheck.ports.task_store import Inserted, PendingLimit
from raincheck.stores.postgres.store import PostgresStore


def say(line: str) -> None:
    print(line, flush=True)


def wait() -> None:
    sys.stdin.readline()


async def create(url: str, _: str) -> None:
    """Open the store with all the others, and add a task."""
    store = PostgresStore(url, pool_size=2, timeout_seconds=30)
    say("ready")
    wait()
    await store.open()
    task = await stored(store)
    await store.close()
    say(task.task_ref)


async def insert_for_ever(url: str, _: str) -> None:
    """Insert with many callers, and name each task once it is acknowledged; each is settled with a record."""
    store = PostgresStore(url)
    await store.open()
    say("ready")

    async def caller(number: int) -> None:
        while True:
            task = new_task(arguments={"a": "x" * (3000 if number % 3 else 10)})
            await store.insert(task, pending_limit=PendingLimit(10**6, 10**6) if number % 2 else None)
            task = claimed(task)
            say(task.task_ref)
            await store.replace(task)
            records = [Record(kind=kind, key=task.task_ref, value=1) for kind in ("webhook", "upstream")]
            await store.replace(settled(task), records=records)

    await asyncio.gather(*(caller(number) for number in range(20)))


async def compete(url: str, name: str) -> None:
    """Insert tasks, some under keys that all use; claim whatever is pending until nothing is left."""
    store = PostgresStore(url, pool_size=3, timeout_seconds=30)
    await store.open()
    say("ready")
    wait()
    inserts = [store.insert(new_task(idempotency_key=f"k{number}")) for number in range(10)]
    inserts += [store.insert(new_task(arguments={"of": name})) for _ in range(20)]
    inserts += [
        store.insert(new_task(idempotency_key="f", key_kind=KeyKind.INFLIGHT, created_at=after(1))) for _ in range(3)
    ]
    created = sum(inserted.created for inserted in await asyncio.gather(*inserts))
    won: list[str] = []
    while pending := await store.claimable(["report"], 50):
        results = await asyncio.gather(*(store.replace(claimed(task, name, at=after(1))) for task in pending))
        won += [task.task_ref for task, result in zip(pending, results, strict=True) if result]
    await store.close()
    say(json.dumps({"created": created, "won": won}))


async def fill(url: str, scope: str) -> None:
    """Insert more tasks of that scope than there is room for; say how many there was room for."""
    store = PostgresStore(url, pool_size=3, timeout_seconds=30)
    await store.open()
    say("ready")
    wait()
    calls = [store.insert(new_task(scope=scope), pending_limit=PendingLimit(total=40, per_scope=25)) for _ in range(30)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await store.close()
    assert all(isinstance(answer, Inserted | QueueFull) for answer in answers)
    say(str(sum(isinstance(answer, Inserted) for answer in answers)))


async def insert_one(url: str, _: str) -> None:
    """Add a task."""
    store = PostgresStore(url)
    await store.open()
    say("ready")
    wait()
    task = await stored(store)
    await store.close()
    say(task.task_ref)


VERBS: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "create": create,
    "insert_for_ever": insert_for_ever,
    "compete": compete,
    "fill": fill,
    "insert_one": insert_one,
}


async def main(verb: str, url: str, argument: str = "") -> None:
    await VERBS[verb](url, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
