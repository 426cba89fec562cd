"""The contract of every store: the records beside the tasks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from stores.backends import Backend
from stores.conftest import OpenStore
from stores.records import NOW, after, apply, claimed, settled, stored

from raincheck.domain.transitions import Cancel
from raincheck.ports.records import LARGEST_RECORD, MOST_RECORDS, Record, RecordQuery
from raincheck.ports.task_store import TaskStore


def record(key: str = "k", **changes: Any) -> Record:
    members: dict[str, Any] = {"kind": "sketch", "key": key, "value": {"n": 1}, "expires_at": after(3600)}
    return Record(**{**members, **changes})


async def test_a_record_comes_back_as_it_was(store: TaskStore) -> None:
    whole = record("ops/re port:é".encode("ascii", "backslashreplace").decode(), value=[1, None, "é\u2028\x00\ud800"])
    whole = replace(whole, due_at=after(1.000001), expires_at=after(2.5))
    assert await store.put_record(whole)
    assert await store.get_record("sketch", whole.key) == whole
    assert await store.get_record("other", whole.key) is None
    assert await store.get_record("sketch", "unknown") is None


async def test_a_record_without_times_is_kept(store: TaskStore) -> None:
    forever = record(value=None, expires_at=None)
    assert await store.put_record(forever)
    await store.purge(after(10**9), 100)
    assert await store.get_record("sketch", "k") == forever
    assert await store.remove_record(forever)


async def test_a_record_is_written_only_over_the_version_before(store: TaskStore) -> None:
    first = record()
    assert not await store.put_record(replace(first, version=2))
    assert await store.put_record(first)
    assert not await store.put_record(first)
    second = replace(first, version=2, value="second", due_at=after(5))
    assert not await store.put_record(replace(second, version=3))
    assert await store.put_record(second)
    assert not await store.put_record(second)
    assert await store.get_record("sketch", "k") == second


async def test_of_writers_that_race_one_wins(store: TaskStore) -> None:
    wins = await asyncio.gather(*(store.put_record(record(value=number)) for number in range(10)))
    assert sum(wins) == 1
    found = await store.get_record("sketch", "k")
    assert found == record(value=wins.index(True))


async def test_racing_processes_lose_no_addition(open_store: OpenStore, backend: Backend) -> None:
    stores = [await open_store() for _ in range(2 if backend.shared else 1)]

    async def add(store: TaskStore) -> None:
        for _ in range(10):
            while True:
                found = await store.get_record("sketch", "sum")
                if await store.put_record(
                    record(
                        "sum", value=1 if found is None else found.value + 1, version=found.version + 1 if found else 1
                    )
                ):
                    break

    await asyncio.gather(*(add(store) for store in stores for _ in range(2)))
    found = await stores[0].get_record("sketch", "sum")
    assert found is not None
    assert (found.value, found.version) == (20 * len(stores), 20 * len(stores))


async def test_only_the_version_that_was_read_is_removed(store: TaskStore) -> None:
    first = record(due_at=NOW)
    assert not await store.remove_record(first)
    assert await store.put_record(first)
    second = replace(first, version=2)
    assert await store.put_record(second)
    assert not await store.remove_record(first)
    assert await store.remove_record(second)
    assert not await store.remove_record(second)
    assert await store.get_record("sketch", "k") is None
    assert list(await store.records(RecordQuery("sketch", due=after(10)))) == []
    assert list(await store.records(RecordQuery("sketch"))) == []
    assert await store.put_record(first)


async def test_what_is_due_comes_earliest_first(store: TaskStore) -> None:
    seconds = [5, 1, 3, 9, 2]
    written = {second: record(f"k{second}", due_at=after(second)) for second in seconds}
    for each in (*written.values(), record("never"), record("other", kind="webhook", due_at=NOW)):
        assert await store.put_record(each)
    assert list(await store.records(RecordQuery("sketch", due=after(5), limit=10))) == [
        written[second] for second in (1, 2, 3, 5)
    ]
    assert list(await store.records(RecordQuery("sketch", due=after(5), limit=2))) == [written[1], written[2]]
    assert list(await store.records(RecordQuery("sketch", due=after(0.999999)))) == []
    later = replace(written[1], version=2, due_at=after(100))
    assert await store.put_record(later)
    suspended = replace(written[2], version=2, due_at=None)
    assert await store.put_record(suspended)
    assert list(await store.records(RecordQuery("sketch", due=after(100)))) == [
        written[3],
        written[5],
        written[9],
        later,
    ]


async def test_a_listing_is_by_key_and_goes_on_after_one(store: TaskStore) -> None:
    keys = ["a", "B", "b", "a/b", "a.b", "~", "1", "a b"]
    for key in keys:
        assert await store.put_record(record(key))
    assert await store.put_record(record("a", kind="webhook"))
    ordered = sorted(keys)
    assert [each.key for each in await store.records(RecordQuery("sketch"))] == ordered
    assert [each.key for each in await store.records(RecordQuery("sketch", limit=3))] == ordered[:3]
    assert [each.key for each in await store.records(RecordQuery("sketch", after=ordered[2], limit=3))] == ordered[3:6]
    assert [each.key for each in await store.records(RecordQuery("sketch", after="a!"))] == [
        key for key in ordered if key > "a!"
    ]
    assert list(await store.records(RecordQuery("sketch", after="~"))) == []
    assert list(await store.records(RecordQuery("unknown"))) == []


@pytest.mark.parametrize("size", [100, 5000, LARGEST_RECORD - 2])
async def test_a_record_of_any_size_survives(store: TaskStore, size: int) -> None:
    whole = record(value="x" * size, due_at=NOW)
    assert await store.put_record(whole)
    assert list(await store.records(RecordQuery("sketch", due=NOW))) == [whole]
    changed = replace(whole, value="y" * size, version=2)
    assert await store.put_record(changed)
    assert await store.get_record("sketch", "k") == changed


async def test_expired_records_are_purged(store: TaskStore) -> None:
    kept = record("kept", expires_at=after(60))
    renewed = record("renewed", expires_at=after(1))
    for each in (kept, renewed, record("gone", expires_at=after(2), due_at=NOW)):
        assert await store.put_record(each)
    renewed = replace(renewed, version=2, expires_at=after(60))
    assert await store.put_record(renewed)
    for _ in range(3):
        assert await store.purge(after(2), 100) == 0
    found = [
        each
        for each in await store.records(RecordQuery("sketch"))
        if each.expires_at is None or each.expires_at > after(2)
    ]
    assert found == [kept, renewed]


async def test_a_record_is_written_with_its_task_or_not_at_all(store: TaskStore) -> None:
    task = claimed(await stored(store))
    assert await store.replace(task)
    done = settled(task)
    outgoing = record(task.task_ref, kind="webhook", due_at=NOW, value={"large": "x" * 20_000})
    beside = (replace(outgoing, kind="upstream"), replace(outgoing, kind="upstream", key="k"))
    assert not await store.replace(replace(done, version=9), records=(outgoing, *beside))
    assert not await store.replace(done, seen_lease=after(99), records=(*beside, outgoing))
    assert await store.get_record("webhook", task.task_ref) is None
    assert list(await store.records(RecordQuery("upstream"))) == []
    assert await store.replace(done, records=(outgoing, *beside))
    assert sorted(await store.records(RecordQuery("upstream", due=NOW)), key=lambda each: each.key) == sorted(
        beside, key=lambda each: each.key
    )
    assert await store.get_record("webhook", task.task_ref) == outgoing
    assert not await store.replace(done, records=(replace(outgoing, value="other"),))
    assert await store.get_record("webhook", task.task_ref) == outgoing
    assert list(await store.records(RecordQuery("webhook", due=NOW))) == [outgoing]


async def test_records_that_cannot_all_be_written_leave_the_task_as_it_is(store: TaskStore) -> None:
    task = claimed(await stored(store))
    twice = [record(kind="webhook"), record(kind="upstream"), record(kind="webhook", value="other")]
    many = [record(f"k{number}") for number in range(MOST_RECORDS + 1)]
    for records in (twice, many):
        with pytest.raises(ValueError, match="each of another kind and key"):
            await store.replace(task, records=records)
    with pytest.raises(TypeError):
        await store.replace(task, records=[record(kind="webhook"), record(value={1, 2})])
    assert await store.get_record("webhook", "k") is None
    assert await store.replace(task, records=many[:-1])
    assert len(await store.records(RecordQuery("sketch"))) == MOST_RECORDS


async def test_a_record_written_with_a_task_goes_over_what_is_there(store: TaskStore) -> None:
    assert await store.put_record(record(kind="webhook", value="old", due_at=after(50)))
    new = record(kind="webhook", value="new", due_at=after(1))
    await apply(store, await stored(store))
    task = claimed(await stored(store))
    assert await store.replace(task, records=(new,))
    assert await store.get_record("webhook", "k") == replace(new, version=2)
    assert list(await store.records(RecordQuery("webhook", due=after(50)))) == [replace(new, version=2)]


async def test_many_settle_at_once_each_with_its_record(store: TaskStore) -> None:
    from raincheck.domain.transitions import transition

    tasks = [await stored(store) for _ in range(20)]
    ended = [transition(task, Cancel(), NOW) for task in tasks]
    written = await asyncio.gather(
        *(
            store.replace(
                task, records=[record(task.task_ref, kind=kind, due_at=NOW) for kind in ("webhook", "upstream")]
            )
            for task in ended
        )
    )
    assert all(written)
    for kind in ("webhook", "upstream"):
        found = await store.records(RecordQuery(kind, due=NOW, limit=50))
        assert {each.key for each in found} == {task.task_ref for task in tasks}


async def test_records_survive_a_reopening(open_store: OpenStore, backend: Backend) -> None:
    if not backend.durable:
        pytest.skip("what this store holds goes with it, as its capabilities say")
    first = await open_store()
    kept = record(due_at=after(1))
    assert await first.put_record(kept)
    await first.close()
    again = await open_store()
    assert await again.get_record("sketch", "k") == kept
    assert list(await again.records(RecordQuery("sketch", due=after(1)))) == [kept]
