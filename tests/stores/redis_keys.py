"""The keys of a Redis store: none stays for ever, and none is left when there are no tasks any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import redis.asyncio
from stores.records import NOW

from raincheck.stores.redis import RedisStore
from raincheck.task import TaskStatus
from raincheck.transitions import Cancel, transition

__all__ = ["keys", "leftovers"]

_UNSETTLED = (TaskStatus.PENDING, TaskStatus.PROCESSING, TaskStatus.INPUT_REQUIRED)


async def keys(url: str, prefix: str) -> dict[bytes, int]:
    """Every key under that prefix, and how many milliseconds it has left; -1: it stays for ever."""
    client: Any = redis.asyncio.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
    try:
        found = [key async for key in client.scan_iter(match=f"{prefix}*", count=1000)]
        return {key: await client.pttl(key) for key in found}
    finally:
        await client.aclose()


async def leftovers(url: str, prefix: str) -> list[str]:
    """Keys without an expiry, or with one before a task's; then, once every task is settled and purged, any key."""
    present = await keys(url, prefix)
    tasks = [left for key, left in present.items() if b":task:" in key]
    indexes = {key: left for key, left in present.items() if b":task:" not in key and b":key:" not in key}
    wrong = [f"{key!r} has no expiry" for key, left in present.items() if left == -1]
    wrong += [
        f"{key!r} expires before a task" for key, left in indexes.items() if _is_of_all(key) and left < max(tasks)
    ]
    store = RedisStore(url, key_prefix=prefix)
    await store.open()
    try:
        while summaries := await store.list(statuses=_UNSETTLED, limit=500):
            for summary in summaries:
                task = await store.get(summary.task_ref)
                assert task is not None
                assert await store.replace(transition(task, Cancel(), task.updated_at))
        removed = await store.purge(NOW + timedelta(days=400_000), 1_000_000)
        if removed != len(tasks):
            wrong.append(f"{removed} tasks purged of {len(tasks)}")
    finally:
        await store.close()
    return [*wrong, *(f"{key!r} is left" for key in await keys(url, prefix))]


def _is_of_all(key: bytes) -> bool:
    return key.endswith((b":layout", b":lists:*"))
