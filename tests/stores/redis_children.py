"""What other processes do to a Redis store in the tests: `python redis_children.py VERB URL [ARGUMENT]`.

As in children.py: a child says `ready` when it is, does its work when a line comes in, and says what came of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace

from stores.records import NOW, after, apply, claimed, new_task, settled, stored

from raincheck.domain.transitions import Claim
from raincheck.ports.records import Record
from raincheck.stores.redis.store import RedisStore


def say(line: str) -> None:
    print(line, flush=True)


def wait() -> None:
    sys.stdin.readline()


async def insert_for_ever(url: str, _: str) -> None:
    """Insert with many callers, and name each task once it is acknowledged."""
    store = RedisStore(url)
    await store.open()
    say("ready")

    async def caller(number: int) -> None:
        while True:
            task = await stored(store, arguments={"a": "x" * (3000 if number % 3 else 10)})
            task = claimed(task)
            say(task.task_ref)
            await store.replace(task)

    await asyncio.gather(*(caller(number) for number in range(20)))


async def settle_for_ever(url: str, _: str) -> None:
    """Settle tasks with many callers, each with a record; name each once it is acknowledged."""
    store = RedisStore(url)
    await store.open()
    say("ready")

    async def caller(number: int) -> None:
        while True:
            task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
            record = Record(kind="webhook", key=task.task_ref, value="x" * (3000 if number % 3 else 10), due_at=NOW)
            assert await store.replace(settled(task), records=(record, replace(record, kind="upstream")))
            say(task.task_ref)

    await asyncio.gather(*(caller(number) for number in range(20)))


async def compete(url: str, name: str) -> None:
    """Insert tasks, some under keys that all use; claim whatever is pending until nothing is left."""
    store = RedisStore(url, timeout_seconds=30)
    await store.open()
    say("ready")
    wait()
    inserts = [store.insert(new_task(idempotency_key=f"k{number}")) for number in range(10)]
    inserts += [store.insert(new_task(arguments={"of": name})) for _ in range(20)]
    created = sum(inserted.created for inserted in await asyncio.gather(*inserts))
    won: list[str] = []
    while pending := await store.claimable(["report"], 50):
        results = await asyncio.gather(*(store.replace(claimed(task, name, at=after(1))) for task in pending))
        won += [task.task_ref for task, result in zip(pending, results, strict=True) if result]
    await store.close()
    say(json.dumps({"created": created, "won": won}))


async def insert_one(url: str, _: str) -> None:
    """Add a task."""
    store = RedisStore(url)
    await store.open()
    say("ready")
    wait()
    task = await stored(store)
    await store.close()
    say(task.task_ref)


VERBS: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "insert_for_ever": insert_for_ever,
    "settle_for_ever": settle_for_ever,
    "compete": compete,
    "insert_one": insert_one,
}


async def main(verb: str, url: str, argument: str = "") -> None:
    await VERBS[verb](url, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
