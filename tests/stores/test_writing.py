"""The contract of every store: what is written, when it is refused, and what comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from stores.backends import Backend
from stores.records import NOW, after, apply, cancelled, claimed, new_task, settled, stored

from raincheck.domain.task import InputRequest, Outcome, Progress, Raised, TaskError, TaskStatus
from raincheck.domain.transitions import (
    TABLE,
    AskInput,
    AwaitExternal,
    Cancel,
    Claim,
    CompleteExternally,
    DeadlinePassed,
    Event,
    LeaseExpired,
    ProvideInput,
    Release,
    ReportProgress,
    SaveCheckpoint,
    Settle,
    transition,
)
from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.task_store import TaskQuery, TaskStore

QUESTION = InputRequest(key="q1", method="elicitation/create", params={"message": "Which one?"})
OUTCOMES = (
    Outcome(value={"pages": [1, 2.5, None, True, "é\u2028\x00"]}),
    Outcome(value=None),
    Outcome(mcp_result={"content": [{"type": "text", "text": "hi"}], "isError": False}),
    Outcome(error=TaskError(code="operation_failed", message="no", retryable=True, details={"at": [3]})),
    Outcome(error=TaskError(code="operation_failed", message="no", raised=Raised("KeyError", "/srv/office.py:3"))),
    Outcome(error=TaskError(code="operation_failed", message="no", raised=Raised("office.Odd", None))),
    Outcome(
        error=TaskError(code="operation_failed", message="no"),
        mcp_result={"content": [], "isError": True},
        rpc_error={"code": -32000, "message": "no", "data": {"x": 1}},
    ),
    Outcome(value="x" * 300_000),
)


async def test_capabilities_are_what_the_suite_holds_the_store_to(store: TaskStore, backend: Backend) -> None:
    assert (store.capabilities.durable, store.capabilities.shared) == (backend.durable, backend.shared)


async def test_an_inserted_task_comes_back_as_it_was(store: TaskStore) -> None:
    task = new_task(
        scope="Ada \u00e9 \ud800 \x00",
        arguments={"text": "\U0001f600 \ud800 \x00 é", "deep": [[{"a": [None, 1.5, -(2**53)]}]], "": {}},
        idempotency_key="k \udfff",
        ttl_seconds=0.25,
        max_attempts=7,
        retry_when_lost=True,
        deadline_at=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    )
    assert await store.insert(task) == (task, True)
    assert await store.get(task.task_ref) == task


async def test_a_fingerprint_tells_the_same_parameters_from_others(store: TaskStore) -> None:
    first = new_task(idempotency_key="k", fingerprint="f" * 64)
    assert (await store.insert(first)).created
    same = await store.insert(new_task(idempotency_key="k", fingerprint="f" * 64))
    assert (same.created, same.task.task_ref, same.task.fingerprint) == (False, first.task_ref, "f" * 64)
    other = await store.insert(new_task(idempotency_key="k", fingerprint="e" * 64))
    assert (other.created, other.task.task_ref) == (False, first.task_ref)
    assert other.task.fingerprint != "e" * 64


async def test_times_in_other_zones_are_the_same_moments(store: TaskStore) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    task = await stored(store, created_at=NOW.astimezone(zone))
    found = await store.get(task.task_ref)
    assert found == task
    assert found is not None
    assert found.created_at.utcoffset() is not None


@pytest.mark.parametrize("size", [900, 1100, 1024 * 1024], ids=["small", "middle", "1 MiB"])
async def test_arguments_of_any_size_survive_every_change(store: TaskStore, size: int) -> None:
    task = await stored(store, arguments={"text": "é" * (size // 2)})
    task = await apply(
        store,
        task,
        Claim(worker_id="w", lease_until=after(30)),
        ReportProgress(fence=1, progress=Progress(fraction=0.5, message="half")),
    )
    assert await store.get(task.task_ref) == task
    assert list(await store.overdue(after(31), 10)) == [task]
    task = await apply(store, task, Settle(fence=1, outcome=Outcome(value="done")))
    assert await store.get(task.task_ref) == task


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_outcomes_come_back_whole(store: TaskStore, outcome: Outcome) -> None:
    task = claimed(await stored(store))
    assert await store.replace(task)
    done = settled(task, outcome, at=after(2))
    assert await store.replace(done)
    assert await store.get(task.task_ref) == done


@pytest.mark.parametrize("length", [10, 5000])
async def test_questions_and_answers_come_back_in_order(store: TaskStore, length: int) -> None:
    first = InputRequest(key="a", method="elicitation/create", params={"message": "x" * length})
    second = InputRequest(key="b", method="sampling/createMessage", params={"messages": []})
    task = await apply(
        store,
        await stored(store),
        Claim(worker_id="w", lease_until=after(30)),
        AskInput(fence=1, requests=(first, second)),
        ProvideInput(responses={"a": {"action": "accept", "content": {"n": 1}}}),
    )
    assert await store.get(task.task_ref) == task
    assert [request.key for request in task.outstanding] == ["b"]
    done = await apply(store, task, Settle(fence=1, outcome=Outcome(value=length)))
    assert await store.get(task.task_ref) == done
    back = await apply(store, await stored(store, retry_when_lost=True), Claim(worker_id="w", lease_until=after(30)))
    back = await apply(store, back, AskInput(fence=1, requests=(first,)), Release(fence=1))
    assert back.inputs == ()
    assert await store.get(back.task_ref) == back


async def test_what_a_reader_or_a_writer_does_to_its_copy_changes_nothing(store: TaskStore) -> None:
    arguments: dict[str, Any] = {"list": [1]}
    task = await stored(store, arguments=arguments)
    arguments["list"].append(2)
    for found in [await store.get(task.task_ref), *(await store.claimable(["report"], 1))]:
        assert found is not None
        assert found.arguments == {"list": [1]}
        dict(found.arguments)["list"].append(3)
    found = await store.get(task.task_ref)
    assert found is not None
    assert found.arguments == {"list": [1]}


async def test_what_json_cannot_hold_is_refused_and_leaves_no_trace(store: TaskStore) -> None:
    task = new_task(arguments={"when": NOW}, idempotency_key="k")
    with pytest.raises(TypeError):
        await store.insert(task)
    assert await store.get(task.task_ref) is None
    assert sum((await store.count()).values()) == 0
    assert (await store.insert(new_task(idempotency_key="k"))).created


async def test_an_unknown_ref_is_none_however_strange(store: TaskStore) -> None:
    await stored(store)
    for ref in ("", "nope", "\x00", "\ud800", "é" * 10_000, "' OR 1=1 --"):
        assert await store.get(ref) is None


async def test_a_second_task_of_one_ref_is_refused(store: TaskStore) -> None:
    task = await stored(store)
    with pytest.raises(StoreError):
        await store.insert(new_task(task_ref=task.task_ref, scope="other"))
    assert await store.get(task.task_ref) == task
    assert (await store.count())[TaskStatus.PENDING] == 1


# Idempotency keys.


async def test_a_taken_key_gives_the_task_that_holds_it_and_writes_nothing(store: TaskStore) -> None:
    held = await apply(
        store,
        await stored(store, idempotency_key="k", arguments={"a": "x" * 4000}),
        Claim(worker_id="w", lease_until=NOW),
    )
    rival = new_task(idempotency_key="k", operation_type="other")
    assert await store.insert(rival) == (held, False)
    assert await store.get(rival.task_ref) is None
    assert sum((await store.count()).values()) == 1


async def test_a_key_belongs_to_its_scope(store: TaskStore) -> None:
    await stored(store, idempotency_key="k", scope="ada")
    await stored(store, idempotency_key="k", scope="bob")
    await stored(store, idempotency_key=None, scope="ada")
    await stored(store, idempotency_key=None, scope="ada")
    assert (await store.count())[TaskStatus.PENDING] == 4


async def test_a_settled_task_holds_its_key_until_its_retention_is_over(store: TaskStore) -> None:
    held = await cancelled(store, idempotency_key="k", arguments={"a": "x" * 4000})
    late = new_task(idempotency_key="k", created_at=after(59.999999))
    assert await store.insert(late) == (held, False)
    fresh = new_task(idempotency_key="k", created_at=after(60))
    assert await store.insert(fresh) == (fresh, True)
    assert await store.get(held.task_ref) is None
    assert await store.get(fresh.task_ref) == fresh
    counts = await store.count()
    assert (counts[TaskStatus.CANCELLED], counts[TaskStatus.PENDING]) == (0, 1)
    assert [each.task_ref for each in await store.list(TaskQuery())] == [fresh.task_ref]
    assert await store.purge(after(1000), 10) == 0


async def test_a_task_that_is_not_settled_holds_its_key_for_ever(store: TaskStore) -> None:
    held = await stored(store, idempotency_key="k")
    assert await store.insert(new_task(idempotency_key="k", created_at=after(10**8))) == (held, False)


async def test_twenty_callers_with_one_key_make_one_task(store: TaskStore) -> None:
    answers = await asyncio.gather(*(store.insert(new_task(idempotency_key="k")) for _ in range(20)))
    assert sum(created for _, created in answers) == 1
    assert len({task.task_ref for task, _ in answers}) == 1
    assert sum((await store.count()).values()) == 1


# Compare and set.

STEPS: dict[str, tuple[Event, ...]] = {
    "pending": (),
    "processing": (Claim(worker_id="w", lease_until=after(30)),),
    "input_required": (Claim(worker_id="w", lease_until=after(30)), AskInput(fence=1, requests=(QUESTION,))),
    "completed": (Claim(worker_id="w", lease_until=after(30)), Settle(fence=1, outcome=Outcome(value=1))),
    "failed": (Claim(worker_id="w", lease_until=after(30)), Settle(fence=1, outcome=OUTCOMES[3])),
    "cancelled": (Cancel(),),
}
NEXT: dict[str, tuple[Event, ...]] = {
    "pending": (
        Claim(worker_id="v", lease_until=after(9999)),
        CompleteExternally(outcome=Outcome(value=2)),
        Cancel(),
        DeadlinePassed(),
    ),
    "processing": (
        ReportProgress(fence=1, progress=Progress(fraction=None, message="m \ud800")),
        AskInput(fence=1, requests=(QUESTION,)),
        SaveCheckpoint(fence=1, checkpoint={"job": [7, "\ud800"]}),
        AwaitExternal(fence=1),
        Settle(fence=1, outcome=Outcome(value=2)),
        CompleteExternally(outcome=OUTCOMES[3]),
        Release(fence=1),
        LeaseExpired(),
        DeadlinePassed(),
        Cancel(),
    ),
    "input_required": (
        ProvideInput(responses={"q1": {"action": "decline"}}),
        SaveCheckpoint(fence=1, checkpoint={"job": 7}),
        AwaitExternal(fence=1),
        Settle(fence=1, outcome=Outcome(value=2)),
        CompleteExternally(outcome=OUTCOMES[3]),
        AskInput(fence=1, requests=(InputRequest(key="q2", method="sampling/createMessage", params={}),)),
        Release(fence=1),
        DeadlinePassed(),
        LeaseExpired(),
        Cancel(),
    ),
}
PAIRS = [(status, event, retry) for status, events in NEXT.items() for event in events for retry in (False, True)]


@pytest.mark.parametrize(("status", "event", "retry"), PAIRS)
async def test_every_change_of_every_status_is_stored(store: TaskStore, status: str, event: Event, retry: bool) -> None:
    task = await apply(store, await stored(store, retry_when_lost=retry), *STEPS[status])
    assert task.status == status
    changed = await apply(store, task, event, at=after(7200))
    assert await store.get(task.task_ref) == changed
    assert await store.count() == {each: int(each is changed.status) for each in TaskStatus}
    assert await store.versions([task.task_ref]) == {task.task_ref: changed.version}


@pytest.mark.parametrize("status", STEPS)
@pytest.mark.parametrize("offset", [-1, 0, 2])
async def test_a_change_of_another_version_is_refused_in_every_status(
    store: TaskStore, status: str, offset: int
) -> None:
    task = await apply(store, await stored(store), *STEPS[status])
    before = await store.count()
    rival = new_task(task_ref=task.task_ref, version=task.version + offset, status=TaskStatus.PROCESSING)
    assert not await store.replace(rival)
    assert await store.get(task.task_ref) == task
    assert await store.count() == before


async def test_a_task_that_is_gone_cannot_be_changed(store: TaskStore) -> None:
    assert not await store.replace(claimed(new_task()))
    task = await cancelled(store)
    assert await store.purge(after(60), 10) == 1
    assert not await store.replace(new_task(task_ref=task.task_ref, version=task.version + 1))
    assert await store.get(task.task_ref) is None


async def test_of_many_claims_of_one_task_one_wins(store: TaskStore) -> None:
    task = await stored(store)
    rivals = [claimed(task, f"worker-{number}") for number in range(50)]
    won = await asyncio.gather(*(store.replace(rival) for rival in rivals))
    assert won.count(True) == 1
    assert await store.get(task.task_ref) == rivals[won.index(True)]
    assert (await store.count())[TaskStatus.PROCESSING] == 1


# Leases.


def _in_a_thread(call: Callable[[], Coroutine[Any, Any, set[str]]]) -> set[str]:
    # Not to_thread: the renewal must not need this event loop.
    answer: list[set[str]] = []
    thread = threading.Thread(target=lambda: answer.append(asyncio.run(call())))
    thread.start()
    thread.join(5)
    return answer[0]


async def test_leases_are_renewed_while_the_event_loop_is_blocked(store: TaskStore) -> None:
    tasks = [await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30))) for _ in range(3)]

    async def renew() -> set[str]:
        async with store.renewer() as renewer:
            return await renewer.renew("w", {task.task_ref: 1 for task in tasks}, after(90))

    lost = _in_a_thread(renew)
    assert lost == set()
    for task in tasks:
        found = await store.get(task.task_ref)
        assert found is not None
        assert (found.lease_until, found.version) == (after(90), task.version)
    assert list(await store.overdue(after(89), 10)) == []
    assert len(await store.overdue(after(90), 10)) == 3


async def test_a_lease_of_a_length_is_counted_by_the_servers_clock_where_there_is_one(store: TaskStore) -> None:
    """And so is when it is due: a worker that has not heard that the clock was set names a moment that is over."""
    long_ago = after(-(10**6))
    task, remote = (
        await stored(store, created_at=after(-2 * 10**6), deadline_at=after(10**6)),
        store.capabilities.remote,
    )
    claim = transition(task, Claim(worker_id="w", lease_until=long_ago), long_ago)
    assert await store.replace(claim, lease_seconds=20)
    for renewed in (False, True):
        if renewed:
            lost = await store.renew("w", {task.task_ref: 1}, long_ago, lease_seconds=60)
            assert lost == set()
        now = await store.time() if remote else None
        found = await store.get(task.task_ref)
        assert found is not None
        assert found.lease_until is not None
        expected = long_ago if now is None else now + timedelta(seconds=60 if renewed else 20)
        # DynamoDB tells whole seconds; and the machine may be busy.
        assert abs((found.lease_until - expected).total_seconds()) < (10 if remote else 1e-6)
        assert list(await store.overdue(found.lease_until - timedelta(seconds=1e-6), 10)) == []
        assert list(await store.overdue(found.lease_until, 10)) == [found]


async def test_a_task_is_not_taken_from_a_worker_that_renewed_meanwhile(store: TaskStore) -> None:
    task = await apply(store, await stored(store, retry_when_lost=True), Claim(worker_id="w", lease_until=after(10)))
    assert await store.renew("w", {task.task_ref: 1}, after(40)) == set()
    taken = transition(task, LeaseExpired(), after(11))
    assert not await store.replace(taken, seen_lease=task.lease_until)
    found = await store.get(task.task_ref)
    assert found == replace(task, lease_until=after(40))
    assert found is not None
    taken = transition(found, LeaseExpired(), after(41))
    assert await store.replace(taken, seen_lease=found.lease_until)
    assert await store.get(task.task_ref) == taken


async def test_only_leases_that_are_held_are_renewed(store: TaskStore) -> None:
    claim = Claim(worker_id="w", lease_until=after(30))
    held = await apply(store, await stored(store), claim)
    suspended = await apply(store, await stored(store), claim, AskInput(fence=1, requests=(QUESTION,)))
    done = await apply(store, await stored(store), claim, Settle(fence=1, outcome=Outcome()))
    of_another = await apply(store, await stored(store), Claim(worker_id="v", lease_until=after(30)))
    again = await apply(store, await stored(store, retry_when_lost=True), claim, Release(fence=1), claim)
    returned = await apply(store, await stored(store, retry_when_lost=True), claim, Release(fence=1))
    everything = (held, suspended, done, of_another, again, returned)
    leases = {task.task_ref: 1 for task in everything} | {"gone": 1}
    lost = await store.renew("w", leases, after(90))
    assert lost == leases.keys() - {held.task_ref, suspended.task_ref}
    for task in (done, of_another, again, returned):
        assert await store.get(task.task_ref) == task


async def test_a_lease_whose_time_is_over_is_renewed_if_nobody_noticed(store: TaskStore) -> None:
    task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(-100)))
    assert [each.task_ref for each in await store.overdue(NOW, 10)] == [task.task_ref]
    assert await store.renew("w", {task.task_ref: 1}, after(30)) == set()
    assert list(await store.overdue(NOW, 10)) == []


async def test_a_lease_does_not_reach_beyond_the_deadline(store: TaskStore) -> None:
    task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
    await store.renew("w", {task.task_ref: 1}, after(9000))
    assert [each.task_ref for each in await store.overdue(after(3600), 10)] == [task.task_ref]


async def test_a_deadline_before_the_end_of_the_lease_counts_after_every_report(store: TaskStore) -> None:
    task = await apply(store, await stored(store, deadline_at=after(20)), Claim(worker_id="w", lease_until=after(30)))
    task = await apply(store, task, ReportProgress(fence=1, progress=Progress(fraction=0.5)))
    assert list(await store.overdue(after(19), 10)) == []
    assert list(await store.overdue(after(20), 10)) == [task]


async def test_a_task_that_was_renewed_many_times_is_overdue_once(store: TaskStore) -> None:
    task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
    never = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
    for number in range(200):
        await store.renew("w", {task.task_ref: 1}, after(31 + number % 7))
    overdue = await store.overdue(after(40), 10)
    assert sorted(each.task_ref for each in overdue) == sorted([task.task_ref, never.task_ref])


async def test_no_leases_no_losses(store: TaskStore) -> None:
    assert await store.renew("w", {}, after(30)) == set()


async def test_a_replace_writes_the_lease_as_the_record_has_it(store: TaskStore) -> None:
    task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
    await store.renew("w", {task.task_ref: 1}, after(90))
    changed = await apply(store, task, ReportProgress(fence=1, progress=Progress(fraction=0.1)))
    assert await store.get(task.task_ref) == changed
    assert len(await store.overdue(after(30), 10)) == 1


# Retention.


async def test_settled_tasks_are_removed_when_their_retention_is_over(store: TaskStore) -> None:
    early = await cancelled(store, arguments={"a": "x" * 4000}, idempotency_key="k")
    late = await cancelled(store, at=after(10))
    live = await stored(store)
    assert await store.purge(after(59.999999), 10) == 0
    assert await store.purge(after(60), 10) == 1
    assert await store.get(early.task_ref) is None
    assert await store.get(late.task_ref) == late
    assert await store.purge(after(10**8), 10) == 1
    assert await store.get(live.task_ref) == live
    assert await store.count() == {each: int(each is TaskStatus.PENDING) for each in TaskStatus}
    assert (await store.insert(new_task(idempotency_key="k"))).created


async def test_a_purge_removes_no_more_than_it_was_told(store: TaskStore) -> None:
    for _ in range(7):
        await cancelled(store)
    assert [await store.purge(after(60), 3) for _ in range(4)] == [3, 3, 1, 0]


async def test_a_large_purge_removes_all(store: TaskStore) -> None:
    await asyncio.gather(*(cancelled(store) for _ in range(450)))
    assert await store.purge(after(60), 10_000) == 450
    assert sum((await store.count()).values()) == 0
    assert list(await store.list(TaskQuery())) == []


async def test_a_removed_ref_may_be_used_again(store: TaskStore) -> None:
    live = [await stored(store, created_at=after(number)) for number in range(5)]
    gone = await cancelled(store)
    assert await store.purge(after(60), 10) == 1
    again = await stored(store, task_ref=gone.task_ref)
    expected = sorted([*live, again], key=lambda task: (task.created_at, task.task_ref), reverse=True)
    assert [each.task_ref for each in await store.list(TaskQuery())] == [task.task_ref for task in expected]
    assert await store.get(gone.task_ref) == again


# Callers that go away, and the end.


async def test_a_caller_that_gives_up_harms_nobody(store: TaskStore) -> None:
    tasks = [new_task(idempotency_key=f"k{number}") for number in range(40)]
    calls = [asyncio.ensure_future(store.insert(task)) for task in tasks]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for task, answer in zip(tasks[1::2], answers[1::2], strict=True):
        assert answer == (task, True)
        assert await store.get(task.task_ref) == task
    for task in tasks[::2]:
        inserted = await store.insert(new_task(idempotency_key=task.idempotency_key))
        assert inserted.created == (inserted.task != task)
    assert sum((await store.count()).values()) == 40


async def test_a_closed_store_says_so(store: TaskStore) -> None:
    task = await stored(store)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.insert(new_task())
    with pytest.raises(StoreUnavailable):
        await store.replace(claimed(task))
    with pytest.raises(StoreUnavailable):
        await store.get(task.task_ref)
    with pytest.raises(StoreUnavailable):
        await store.renew("w", {"x": 1}, NOW)


def test_the_pairs_cover_every_row_of_the_table() -> None:
    assert {(status, type(event)) for status, event, _ in PAIRS} == {(str(status), kind) for status, kind in TABLE}
