"""The keys of a Redis store: none stays for ever, and none is left when there are no tasks and records any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import redis.asyncio
from stores.records import NOW

from raincheck.domain.task import TaskStatus
from raincheck.domain.transitions import Cancel, transition
from raincheck.ports.records import RecordQuery
from raincheck.ports.task_store import TaskQuery
from raincheck.stores.redis.store import RedisStore

__all__ = ["keys", "leftovers"]

# As in lua/record.lua: so long a removed record is known to have been.
_GONE = 120_000
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
    """Keys without an expiry, or with one before that of what they lead to; then, once every task is settled and purged
    and every record is removed, any key but what is left of a removed record for a while."""
    present = await keys(url, prefix)
    tasks = [left for key, left in present.items() if b":task:" in key]
    records = {key.split(b":record:", 1)[1]: left for key, left in present.items() if b":record:" in key}
    wrong = [f"{key!r} has no expiry" for key, left in present.items() if left == -1]
    for key, left in present.items():
        kind = key.rpartition(b":records:")[2] if b":records:" in key else None
        led_to = (
            records.values()
            if kind is None
            else [ms for record, ms in records.items() if record.startswith(kind + b":")]
        )
        if key.endswith((b":layout", b":kinds")) or kind is not None:
            wrong += [f"{key!r} expires before a record" for ms in led_to if ms > left]
        if key.endswith((b":layout", b":lists:*")):
            wrong += [f"{key!r} expires before a task" for ms in tasks if ms > left]
    store = RedisStore(url, key_prefix=prefix)
    await store.open()
    try:
        while summaries := await store.list(TaskQuery(statuses=_UNSETTLED, limit=500)):
            for summary in summaries:
                task = await store.get(summary.task_ref)
                assert task is not None
                assert await store.replace(transition(task, Cancel(), task.updated_at))
        removed = await store.purge(NOW + timedelta(days=400_000), 1_000_000)
        if removed != len(tasks):
            wrong.append(f"{removed} tasks purged of {len(tasks)}")
        # What is left has no `expires_at`.
        for kind in {record.partition(b":")[0].decode() for record in records}:
            for record in await store.records(RecordQuery(kind, limit=10_000)):
                assert record.expires_at is None
                assert await store.remove_record(record)
    finally:
        await store.close()
    left_over = await keys(url, prefix)
    return [*wrong, *(f"{key!r} is left" for key, left in left_over.items() if b":record:" not in key or left > _GONE)]
