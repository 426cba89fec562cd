"""The contract of every store: the notes beside the tasks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from stores.backends import Backend
from stores.conftest import OpenStore
from stores.records import NOW, after, apply, claimed, settled, stored

from raincheck.domain.transitions import Cancel
from raincheck.ports.records import LARGEST_NOTE, Note
from raincheck.ports.task_store import TaskStore


def note(key: str = "k", **changes: Any) -> Note:
    members: dict[str, Any] = {"kind": "sketch", "key": key, "value": {"n": 1}, "expires_at": after(3600)}
    return Note(**{**members, **changes})


async def test_a_note_comes_back_as_it_was(store: TaskStore) -> None:
    whole = note("ops/re port:é".encode("ascii", "backslashreplace").decode(), value=[1, None, "é\u2028\x00\ud800"])
    whole = replace(whole, due_at=after(1.000001), expires_at=after(2.5))
    assert await store.put_note(whole)
    assert await store.get_note("sketch", whole.key) == whole
    assert await store.get_note("other", whole.key) is None
    assert await store.get_note("sketch", "unknown") is None


async def test_a_note_without_times_is_kept(store: TaskStore) -> None:
    forever = note(value=None, expires_at=None)
    assert await store.put_note(forever)
    await store.purge(after(10**9), 100)
    assert await store.get_note("sketch", "k") == forever
    assert await store.remove_note(forever)


async def test_a_note_is_written_only_over_the_version_before(store: TaskStore) -> None:
    first = note()
    assert not await store.put_note(replace(first, version=2))
    assert await store.put_note(first)
    assert not await store.put_note(first)
    second = replace(first, version=2, value="second", due_at=after(5))
    assert not await store.put_note(replace(second, version=3))
    assert await store.put_note(second)
    assert not await store.put_note(second)
    assert await store.get_note("sketch", "k") == second


async def test_of_writers_that_race_one_wins(store: TaskStore) -> None:
    wins = await asyncio.gather(*(store.put_note(note(value=number)) for number in range(10)))
    assert sum(wins) == 1
    found = await store.get_note("sketch", "k")
    assert found == note(value=wins.index(True))


async def test_racing_processes_lose_no_addition(open_store: OpenStore, backend: Backend) -> None:
    stores = [await open_store() for _ in range(2 if backend.shared else 1)]

    async def add(store: TaskStore) -> None:
        for _ in range(10):
            while True:
                found = await store.get_note("sketch", "sum")
                if await store.put_note(
                    note(
                        "sum", value=1 if found is None else found.value + 1, version=found.version + 1 if found else 1
                    )
                ):
                    break

    await asyncio.gather(*(add(store) for store in stores for _ in range(2)))
    found = await stores[0].get_note("sketch", "sum")
    assert found is not None
    assert (found.value, found.version) == (20 * len(stores), 20 * len(stores))


async def test_only_the_version_that_was_read_is_removed(store: TaskStore) -> None:
    first = note(due_at=NOW)
    assert not await store.remove_note(first)
    assert await store.put_note(first)
    second = replace(first, version=2)
    assert await store.put_note(second)
    assert not await store.remove_note(first)
    assert await store.remove_note(second)
    assert not await store.remove_note(second)
    assert await store.get_note("sketch", "k") is None
    assert list(await store.notes("sketch", due=after(10))) == []
    assert list(await store.notes("sketch")) == []
    assert await store.put_note(first)


async def test_what_is_due_comes_earliest_first(store: TaskStore) -> None:
    seconds = [5, 1, 3, 9, 2]
    written = {second: note(f"k{second}", due_at=after(second)) for second in seconds}
    for each in (*written.values(), note("never"), note("other", kind="webhook", due_at=NOW)):
        assert await store.put_note(each)
    assert list(await store.notes("sketch", due=after(5), limit=10)) == [written[second] for second in (1, 2, 3, 5)]
    assert list(await store.notes("sketch", due=after(5), limit=2)) == [written[1], written[2]]
    assert list(await store.notes("sketch", due=after(0.999999))) == []
    later = replace(written[1], version=2, due_at=after(100))
    assert await store.put_note(later)
    parked = replace(written[2], version=2, due_at=None)
    assert await store.put_note(parked)
    assert list(await store.notes("sketch", due=after(100))) == [written[3], written[5], written[9], later]


async def test_a_listing_is_by_key_and_goes_on_after_one(store: TaskStore) -> None:
    keys = ["a", "B", "b", "a/b", "a.b", "~", "1", "a b"]
    for key in keys:
        assert await store.put_note(note(key))
    assert await store.put_note(note("a", kind="webhook"))
    ordered = sorted(keys)
    assert [each.key for each in await store.notes("sketch")] == ordered
    assert [each.key for each in await store.notes("sketch", limit=3)] == ordered[:3]
    assert [each.key for each in await store.notes("sketch", after=ordered[2], limit=3)] == ordered[3:6]
    assert [each.key for each in await store.notes("sketch", after="a!")] == [key for key in ordered if key > "a!"]
    assert list(await store.notes("sketch", after="~")) == []
    assert list(await store.notes("unknown")) == []


@pytest.mark.parametrize("size", [100, 5000, LARGEST_NOTE - 2])
async def test_a_note_of_any_size_survives(store: TaskStore, size: int) -> None:
    whole = note(value="x" * size, due_at=NOW)
    assert await store.put_note(whole)
    assert list(await store.notes("sketch", due=NOW)) == [whole]
    changed = replace(whole, value="y" * size, version=2)
    assert await store.put_note(changed)
    assert await store.get_note("sketch", "k") == changed


async def test_expired_notes_are_purged(store: TaskStore) -> None:
    kept = note("kept", expires_at=after(60))
    renewed = note("renewed", expires_at=after(1))
    for each in (kept, renewed, note("gone", expires_at=after(2), due_at=NOW)):
        assert await store.put_note(each)
    renewed = replace(renewed, version=2, expires_at=after(60))
    assert await store.put_note(renewed)
    for _ in range(3):
        assert await store.purge(after(2), 100) == 0
    found = [each for each in await store.notes("sketch") if each.expires_at is None or each.expires_at > after(2)]
    assert found == [kept, renewed]


async def test_a_note_is_written_with_its_task_or_not_at_all(store: TaskStore) -> None:
    task = claimed(await stored(store))
    assert await store.replace(task)
    done = settled(task)
    outgoing = note(task.task_ref, kind="webhook", due_at=NOW, value={"large": "x" * 20_000})
    assert not await store.replace(replace(done, version=9), note=outgoing)
    assert not await store.replace(done, seen_lease=after(99), note=outgoing)
    assert await store.get_note("webhook", task.task_ref) is None
    assert await store.replace(done, note=outgoing)
    assert await store.get_note("webhook", task.task_ref) == outgoing
    assert not await store.replace(done, note=replace(outgoing, value="other"))
    assert await store.get_note("webhook", task.task_ref) == outgoing
    assert list(await store.notes("webhook", due=NOW)) == [outgoing]


async def test_a_note_written_with_a_task_goes_over_what_is_there(store: TaskStore) -> None:
    assert await store.put_note(note(kind="webhook", value="old", due_at=after(50)))
    new = note(kind="webhook", value="new", due_at=after(1))
    await apply(store, await stored(store))
    task = claimed(await stored(store))
    assert await store.replace(task, note=new)
    assert await store.get_note("webhook", "k") == replace(new, version=2)
    assert list(await store.notes("webhook", due=after(50))) == [replace(new, version=2)]


async def test_many_settle_at_once_each_with_its_note(store: TaskStore) -> None:
    from raincheck.domain.transitions import transition

    tasks = [await stored(store) for _ in range(20)]
    ended = [transition(task, Cancel(), NOW) for task in tasks]
    written = await asyncio.gather(
        *(store.replace(task, note=note(task.task_ref, kind="webhook", due_at=NOW)) for task in ended)
    )
    assert all(written)
    found = await store.notes("webhook", due=NOW, limit=50)
    assert {each.key for each in found} == {task.task_ref for task in tasks}


async def test_notes_survive_a_reopening(open_store: OpenStore, backend: Backend) -> None:
    if not backend.durable:
        pytest.skip("what this store holds goes with it, as its capabilities say")
    first = await open_store()
    kept = note(due_at=after(1))
    assert await first.put_note(kept)
    await first.close()
    again = await open_store()
    assert await again.get_note("sketch", "k") == kept
    assert list(await again.notes("sketch", due=after(1))) == [kept]
