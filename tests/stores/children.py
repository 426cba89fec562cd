"""What other processes do to a SQLite store in the tests: `python children.py VERB PATH [ARGUMENT]`.

A child says `ready` when it is, does its work when a line comes in, and says what came of it, a line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from stores.records import after, claimed, new_task, stored

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreError
from raincheck.stores.sqlite.store import SqliteStore


def say(line: str) -> None:
    print(line, flush=True)


def wait() -> None:
    sys.stdin.readline()


async def hold(path: str, mode: str) -> None:
    """Hold the file's lock until a line comes in."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"BEGIN {mode}")
    say("ready")
    await asyncio.to_thread(wait)
    connection.execute("ROLLBACK")
    connection.close()


async def create(path: str, _: str) -> None:
    """Open the store with all the others, and add a task."""
    store = SqliteStore(path)
    say("ready")
    wait()
    await store.open()
    task = await stored(store)
    await store.close()
    say(task.task_ref)


async def insert_for_ever(path: str, _: str) -> None:
    """Insert with many callers, and name each task once it is acknowledged."""
    store = SqliteStore(path)
    await store.open()
    say("ready")

    async def caller(number: int) -> None:
        while True:
            task = await stored(store, arguments={"a": "x" * (3000 if number % 3 else 10)})
            task = claimed(task)
            say(task.task_ref)
            await store.replace(task)

    await asyncio.gather(*(caller(number) for number in range(20)))


async def compete(path: str, name: str) -> None:
    """Insert tasks, some under keys that all use; claim whatever is pending until nothing is left."""
    store = SqliteStore(path, busy_seconds=30)
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


async def fill(path: str, _: str) -> None:
    """Insert more than the WAL has room for while no file may grow, then again when they may."""
    store = SqliteStore(path, busy_seconds=0.5)
    await store.open()
    first = await stored(store)
    say("ready")
    wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    pending_limit = os.stat(f"{path}-wal").st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (pending_limit, hard))
    tasks = [new_task(arguments={"a": "x" * (5000 + pending_limit)}) for _ in range(5)]
    answers = await asyncio.gather(*(store.insert(task) for task in tasks), return_exceptions=True)
    for answer in answers:
        say(f"{type(answer).__name__}: {answer.message}" if isinstance(answer, StoreError) else repr(answer))
    readable = await store.get(first.task_ref) == first
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    absent = [await store.get(task.task_ref) for task in tasks] == [None] * 5
    again = [(await store.insert(task)).created for task in tasks] == [True] * 5
    counted = (await store.count())[TaskStatus.PENDING] == 6
    await store.close()
    say(json.dumps({"readable": readable, "absent": absent, "again": again, "counted": counted}))


async def open_without_room(path: str, _: str) -> None:
    """Open the store while no file may grow, and say how it commits afterwards."""
    say("ready")
    wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path).st_size, hard))
    store = SqliteStore(path, busy_seconds=0.5)
    await store.open()
    # Goes through the writer, so the preparation is over.
    await store.renew("w", {"x": 1}, after(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await stored(store)
    connection = cast(Any, store)._writer._connection
    facts = [connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("synchronous", "cache_size")]
    await store.close()
    say("synchronous {}, cache {}".format(*facts))


async def call_all_the_time(path: str, seconds: str) -> None:
    """For each line that comes in, call with many callers for so long; what they were told, and the longest call."""
    store = SqliteStore(path, busy_seconds=1.0)
    await store.open()
    store.subscribe(lambda change: None)
    tasks = [await stored(store, arguments={"a": "x" * 9000}) for _ in range(50)]
    say("ready")

    async def call(task: Task, until: float, told: set[str]) -> float:
        longest = 0.0
        while (began := time.monotonic()) < until:
            for verb in (store.insert(new_task()), store.get(task.task_ref)):
                try:
                    await verb
                    told.add("done")
                except StoreError as error:
                    told.add(f"{type(error).__name__}: {error.message}")
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0)
        return longest

    while await asyncio.to_thread(sys.stdin.readline):
        told: set[str] = set()
        until = time.monotonic() + float(seconds)
        longest = max(await asyncio.gather(*(call(task, until, told) for task in tasks for _ in range(4))))
        say(json.dumps({"told": sorted(told), "longest": round(longest, 2)}))
    await store.close()


async def open_as_nobody(path: str, _: str) -> None:
    """Open the store without the rights of root."""
    say("ready")
    wait()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    store = SqliteStore(path, busy_seconds=0.5)
    try:
        await store.open()
        await stored(store)
    except StoreError as error:
        say(f"{type(error).__name__}: {error.message}")
    else:
        say("opened")
    await store.close()


VERBS: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "hold": hold,
    "create": create,
    "insert_for_ever": insert_for_ever,
    "compete": compete,
    "fill": fill,
    "open_without_room": open_without_room,
    "open_as_nobody": open_as_nobody,
    "call_all_the_time": call_all_the_time,
}


async def main(verb: str, path: str, argument: str = "") -> None:
    await VERBS[verb](path, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
