"""What other processes do to a DynamoDB store in the tests: `python dynamodb_children.py VERB ENDPOINT TABLE,NAME`.

As in children.py: a child says `ready` when it is, does its work when a line comes in, and says what came of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

from stores.records import after, apply, claimed, new_task, settled, stored

from raincheck.domain.task import Outcome, new_task_ref
from raincheck.domain.transitions import Cancel, Claim, Release
from raincheck.errors import QueueFull
from raincheck.ports.task_store import Inserted, PendingLimit
from raincheck.stores.dynamodb.store import DynamoDBStore


def say(line: str) -> None:
    print(line, flush=True)


def wait() -> None:
    sys.stdin.readline()


async def create(store: DynamoDBStore, _: str) -> None:
    """Open the store with all the others, and add a task."""
    say("ready")
    wait()
    await store.open()
    task = await stored(store)
    await store.close()
    say(task.task_ref)


async def write_for_ever(store: DynamoDBStore, _: str) -> None:
    """Insert, claim and settle with many callers, and name each task and its version once it is acknowledged."""
    await store.open()
    say("ready")

    async def caller(number: int) -> None:
        size = 3000 if number % 3 else 10
        while True:
            task = await stored(store, arguments={"a": "x" * size}, idempotency_key=new_task_ref())
            say(f"{task.task_ref} 1")
            task = claimed(task)
            await store.replace(task)
            say(f"{task.task_ref} 2")
            await store.replace(settled(task, Outcome(value="y" * size)))
            say(f"{task.task_ref} 3")

    await asyncio.gather(*(caller(number) for number in range(10)))


async def compete(store: DynamoDBStore, name: str) -> None:
    """Insert tasks, some under keys that all use; claim whatever is pending until nothing is left."""
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


async def fill_room(store: DynamoDBStore, name: str) -> None:
    """Insert as many tasks as there is room for, of two scopes, each call on its own; say how many of each."""
    await store.open()
    say("ready")
    wait()
    pending_limit = PendingLimit(total=25, per_scope=15)
    calls = [
        store.insert(new_task(scope=("ada", "bob")[number % 2]), pending_limit=pending_limit) for number in range(20)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if not isinstance(answer, Inserted)]
    assert all(isinstance(answer, QueueFull) for answer in refused), refused
    await store.close()
    scopes = [answer.task.scope for answer in answers if isinstance(answer, Inserted)]
    say(json.dumps({"ada": scopes.count("ada"), "bob": scopes.count("bob"), "of": name}))


async def come_and_go(store: DynamoDBStore, _: str) -> None:
    """Insert where there is room, claim, give back, cancel, for ever."""
    await store.open()
    say("ready")

    async def caller(number: int) -> None:
        while True:
            try:
                task = (
                    await store.insert(
                        new_task(scope=f"s{number % 3}", retry_when_lost=True), pending_limit=PendingLimit(50, 20)
                    )
                ).task
            except QueueFull:
                continue
            task = await apply(store, task, Claim(worker_id="w", lease_until=after(30)), Release(fence=1))
            await apply(store, task, Cancel())
            say(task.task_ref)

    await asyncio.gather(*(caller(number) for number in range(6)))


VERBS: dict[str, Callable[[DynamoDBStore, str], Awaitable[None]]] = {
    "create": create,
    "write_for_ever": write_for_ever,
    "come_and_go": come_and_go,
    "compete": compete,
    "fill_room": fill_room,
}


async def main(verb: str, endpoint: str, argument: str) -> None:
    table, _, name = argument.partition(",")
    await VERBS[verb](DynamoDBStore(table, endpoint=endpoint, timeout_seconds=30), name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
