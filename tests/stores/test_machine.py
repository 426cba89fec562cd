"""Every store against the pure model: a dict of tasks, changed by `raincheck.domain.transitions` alone."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stores.backends import Backend
from stores.records import NOW, new_task

from raincheck.domain.task import InputRequest, KeyKind, Outcome, Progress, Task, TaskError, TaskStatus
from raincheck.domain.transitions import (
    AskInput,
    AwaitExternal,
    Cancel,
    Claim,
    CompleteExternally,
    DeadlinePassed,
    Event,
    LeaseExpired,
    ProvideInput,
    Refused,
    Release,
    ReportProgress,
    SaveCheckpoint,
    Settle,
    transition,
)
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import Cursor, TaskQuery, TaskStore, TaskSummary
from support.waiting import PATIENCE

_T = TypeVar("_T")

WORKERS = ("worker-1", "worker-2")
SCOPES = ("ada", "bob")
OPERATIONS = ("report", "resize", "unknown")
CALLER, INFLIGHT, TOOL_USE = KeyKind
NOTE_KEYS = ("a", "b", "c")

pick = st.integers(min_value=0, max_value=1_000_000)
fences = st.integers(min_value=-1, max_value=0)
sizes = st.sampled_from([1, 2000])
outcomes = st.one_of(
    sizes.map(lambda size: Outcome(value="v" * size)),
    sizes.map(lambda size: Outcome(error=TaskError(code="operation_failed", message="m" * size))),
)


class StoreMachine(RuleBasedStateMachine):
    """The same events to a store and to the model; whatever can be read must be the same."""

    backend: Backend

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="raincheck-machine-"))
        self.runner = asyncio.Runner()
        self.tasks: dict[str, Task] = {}
        self.records: dict[str, Record] = {}
        self.now: datetime = NOW
        self.told: list[Task] = []
        self.heard: list[Task] = []
        self.questions = 0
        self.store: TaskStore = self.backend.make_quick(self.folder)

    def run(self, action: Awaitable[_T]) -> _T:
        async def bounded() -> _T:
            async with asyncio.timeout(PATIENCE):
                return await action

        return self.runner.run(bounded())

    @initialize()
    def opened(self) -> None:
        self.run(self.store.open())
        self.listen()

    def listen(self) -> None:
        self.store.subscribe(lambda change: self.heard.append(change) if isinstance(change, Task) else None)

    def teardown(self) -> None:
        self.run(self.store.close())
        if self.backend.leftovers is not None:
            assert self.run(self.backend.leftovers(self.folder)) == []
        self.runner.close()
        shutil.rmtree(self.folder)

    def some(self, number: int) -> Task:
        refs = sorted(self.tasks, key=lambda ref: (self.tasks[ref].terminal, self.tasks[ref].created_at, ref))
        return self.tasks[refs[number % len(refs)]]

    def change(self, task: Task, event: Event) -> None:
        try:
            changed = transition(task, event, self.now)
        except Refused:
            return
        if changed is task:
            return
        assert self.run(self.store.replace(changed))
        assert not self.run(self.store.replace(changed))
        self.tasks[task.task_ref] = changed
        self.told.append(changed)

    # Time.

    @rule(seconds=st.sampled_from([-3.0, 0.000001, 1.0, 7.5, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # Writing.

    @rule(
        scope=st.sampled_from(SCOPES),
        operation=st.sampled_from(OPERATIONS),
        key=st.sampled_from([None, None, "k1", "k2"]),
        kind=st.sampled_from([CALLER, CALLER, INFLIGHT, TOOL_USE]),
        priority=st.sampled_from([0, 0, -1, 9]),
        deadline=st.sampled_from([5.0, 60.0]),
        retry=st.booleans(),
        size=sizes,
    )
    def insert(
        self,
        scope: str,
        operation: str,
        key: str | None,
        kind: KeyKind,
        priority: int,
        deadline: float,
        retry: bool,
        size: int,
    ) -> None:
        task = new_task(
            scope=scope,
            operation_type=operation,
            idempotency_key=key,
            key_kind=kind,
            own_webhook=retry,
            priority=priority,
            created_at=self.now,
            deadline_at=self.now + timedelta(seconds=deadline),
            ttl_seconds=10.0,
            retry_when_lost=retry,
            arguments={"a": "x" * size},
        )
        named = (scope, kind, key)
        held = [
            each for each in self.tasks.values() if key and (each.scope, each.key_kind, each.idempotency_key) == named
        ]
        if held and (not held[0].terminal if kind is INFLIGHT else _retained(held[0], self.now)):
            assert self.run(self.store.insert(task)) == (held[0], False)
            return
        assert self.run(self.store.insert(task)) == (task, True)
        for each in held:
            if kind is INFLIGHT:
                self.tasks[each.task_ref] = replace(each, idempotency_key=None)
            else:
                del self.tasks[each.task_ref]
        self.tasks[task.task_ref] = task
        self.told.append(task)

    @rule(worker=st.sampled_from(WORKERS), limit=st.integers(1, 3), operations=st.sets(st.sampled_from(OPERATIONS)))
    def claim(self, worker: str, limit: int, operations: set[str]) -> None:
        pending = [
            task
            for task in sorted(self.tasks.values(), key=lambda task: (-task.priority, task.created_at, task.task_ref))
            if task.status is TaskStatus.PENDING and task.operation_type in operations
        ]
        waiting = self.run(self.store.waiting(operations, 1000))
        assert sorted(waiting, key=lambda task: task.task_ref) == sorted(pending, key=lambda task: task.task_ref)
        found = list(self.run(self.store.claimable(operations, limit)))
        assert found == pending[:limit]
        for task in found:
            self.change(task, Claim(worker_id=worker, lease_until=self.now + timedelta(seconds=10)))

    @precondition(lambda self: self.tasks)
    @rule(number=pick, stale=fences, fraction=st.floats(0, 1), size=sizes)
    def report_progress(self, number: int, stale: int, fraction: float, size: int) -> None:
        task = self.some(number)
        progress = Progress(fraction=fraction, message="m" * size)
        self.change(task, ReportProgress(fence=task.fence + stale, progress=progress))

    @precondition(lambda self: self.tasks)
    @rule(number=pick, stale=fences, size=sizes)
    def ask(self, number: int, stale: int, size: int) -> None:
        task = self.some(number)
        self.questions += 1
        request = InputRequest(key=f"q{self.questions}", method="elicitation/create", params={"message": "?" * size})
        self.change(task, AskInput(fence=task.fence + stale, requests=(request,)))

    @precondition(lambda self: self.tasks)
    @rule(number=pick, which=st.integers(0, 1), size=sizes)
    def provide(self, number: int, which: int, size: int) -> None:
        task = self.some(number)
        keys = [request.key for request in task.outstanding][which:]
        self.change(task, ProvideInput(responses={key: {"action": "x" * size} for key in [*keys, "unknown"]}))

    @precondition(lambda self: self.tasks)
    @rule(number=pick, stale=fences, outcome=outcomes)
    def settle(self, number: int, stale: int, outcome: Outcome) -> None:
        task = self.some(number)
        self.change(task, Settle(fence=task.fence + stale, outcome=outcome))

    @precondition(lambda self: self.tasks)
    @rule(number=pick, stale=fences, size=sizes)
    def checkpoint(self, number: int, stale: int, size: int) -> None:
        task = self.some(number)
        self.change(task, SaveCheckpoint(fence=task.fence + stale, checkpoint={"job": "j" * size}))

    @precondition(lambda self: self.tasks)
    @rule(number=pick, stale=fences)
    def await_external(self, number: int, stale: int) -> None:
        task = self.some(number)
        self.change(task, AwaitExternal(fence=task.fence + stale))

    @precondition(lambda self: self.tasks)
    @rule(number=pick, outcome=outcomes)
    def call_back(self, number: int, outcome: Outcome) -> None:
        self.change(self.some(number), CompleteExternally(outcome=outcome))

    @rule(key=st.sampled_from(NOTE_KEYS), due=st.sampled_from([None, 1.0, 9.0]), size=sizes, stale=fences)
    def put_record(self, key: str, due: float | None, size: int, stale: int) -> None:
        found = self.records.get(key)
        record = Record(
            kind="webhook",
            key=key,
            value="v" * size,
            version=(found.version if found else 0) + 1 + stale,
            due_at=None if due is None else self.now + timedelta(seconds=due),
        )
        assert self.run(self.store.put_record(record)) is (stale == 0)
        if stale == 0:
            self.records[key] = record

    @rule(key=st.sampled_from(NOTE_KEYS), stale=fences)
    def remove_record(self, key: str, stale: int) -> None:
        found = self.records.get(key, Record(kind="webhook", key=key, value=None))
        removed = self.run(self.store.remove_record(replace(found, version=found.version + stale)))
        assert removed is (stale == 0 and key in self.records)
        if removed:
            del self.records[key]

    @precondition(lambda self: self.tasks)
    @rule(number=pick, keys=st.lists(st.sampled_from(NOTE_KEYS), unique=True))
    def cancel_with_records(self, number: int, keys: list[str]) -> None:
        task = self.some(number)
        if task.terminal:
            return
        self.tasks[task.task_ref] = ended = transition(task, Cancel(), self.now)
        records = [Record(kind="webhook", key=key, value=task.task_ref, due_at=self.now) for key in keys]
        assert not self.run(self.store.replace(replace(ended, version=ended.version + 1), records=records))
        assert self.run(self.store.replace(ended, records=records))
        for record in records:
            before = self.records.get(record.key)
            self.records[record.key] = replace(record, version=before.version + 1 if before else 1)
        self.told.append(ended)

    @rule(limit=st.integers(1, 3), after=st.sampled_from(["", *NOTE_KEYS]))
    def look_at_records(self, limit: int, after: str) -> None:
        by_key = [self.records[key] for key in sorted(self.records) if key > after]
        assert list(self.run(self.store.records(RecordQuery("webhook", after=after, limit=limit)))) == by_key[:limit]
        due = {key for key, record in self.records.items() if record.due_at is not None and record.due_at <= self.now}
        found = self.run(self.store.records(RecordQuery("webhook", due=self.now, limit=10)))
        assert {record.key for record in found} == due
        assert found == sorted(found, key=lambda record: record.due_at or self.now)

    @precondition(lambda self: self.tasks)
    @rule(number=pick, stale=fences)
    def release(self, number: int, stale: int) -> None:
        task = self.some(number)
        self.change(task, Release(fence=task.fence + stale))

    @precondition(lambda self: self.tasks)
    @rule(number=pick)
    def cancel(self, number: int) -> None:
        self.change(self.some(number), Cancel())

    @rule(limit=st.integers(1, 3))
    def sweep(self, limit: int) -> None:
        due = {
            task.task_ref
            for task in self.tasks.values()
            if not task.terminal
            and (task.deadline_at <= self.now or (task.lease_until is not None and task.lease_until <= self.now))
        }
        everything = {task.task_ref for task in self.run(self.store.overdue(self.now, 10_000))}
        assert everything == due
        found = self.run(self.store.overdue(self.now, limit))
        assert len(found) == min(limit, len(due))
        for task in found:
            assert task == self.tasks[task.task_ref]
            self.change(task, DeadlinePassed() if task.deadline_at <= self.now else LeaseExpired())

    @rule(limit=st.integers(1, 3))
    def purge(self, limit: int) -> None:
        expired = {
            task.task_ref for task in self.tasks.values() if task.expires_at is not None and task.expires_at <= self.now
        }
        removed = self.run(self.store.purge(self.now, limit))
        assert removed == min(limit, len(expired))
        kept = self.run(self.store.versions(list(self.tasks))).keys()
        gone = self.tasks.keys() - kept
        assert len(gone) == removed
        assert gone <= expired
        for ref in gone:
            del self.tasks[ref]

    @rule(worker=st.sampled_from(WORKERS), stale=fences, seconds=st.sampled_from([-5.0, 10.0, 100.0]))
    def renew(self, worker: str, stale: int, seconds: float) -> None:
        until = self.now + timedelta(seconds=seconds)
        leases = {
            ref: task.fence + (stale if index % 3 == 2 else 0) for index, (ref, task) in enumerate(self.tasks.items())
        }
        held = {
            ref
            for ref, fence in leases.items()
            if not (task := self.tasks[ref]).terminal and (task.worker_id, task.fence) == (worker, fence)
        }
        lost = self.run(self.store.renew(worker, {**leases, "gone": 1}, until))
        assert lost == leases.keys() - held | {"gone"}
        for ref in held:
            self.tasks[ref] = replace(self.tasks[ref], lease_until=until)

    @precondition(lambda self: self.backend.durable)
    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.store = self.backend.make_quick(self.folder)
        self.run(self.store.open())
        self.listen()

    # Reading.

    @rule(
        scope=st.sampled_from([None, *SCOPES]),
        operation=st.sampled_from([None, *OPERATIONS]),
        statuses=st.sets(st.sampled_from(list(TaskStatus)), max_size=2),
        start=st.one_of(st.none(), pick),
        limit=st.integers(1, 5),
    )
    def list_page(
        self, scope: str | None, operation: str | None, statuses: set[TaskStatus], start: int | None, limit: int
    ) -> None:
        first = self.some(start) if start is not None and self.tasks else None
        cursor = Cursor(first.created_at, first.task_ref) if first is not None else None
        expected = [
            TaskSummary.of(task)
            for task in sorted(self.tasks.values(), key=lambda task: (task.created_at, task.task_ref), reverse=True)
            if scope in (None, task.scope)
            and operation in (None, task.operation_type)
            and (not statuses or task.status in statuses)
            and (cursor is None or (task.created_at, task.task_ref) < cursor)
        ]
        page = self.run(
            self.store.list(
                TaskQuery(scope=scope, operation_type=operation, statuses=statuses, after=cursor, limit=limit)
            )
        )
        assert list(page) == expected[:limit]

    @precondition(lambda self: self.tasks)
    @rule(number=pick)
    def get(self, number: int) -> None:
        task = self.some(number)
        assert self.run(self.store.get(task.task_ref)) == task

    @invariant()
    def counts_and_versions_agree(self) -> None:
        counts = dict.fromkeys(TaskStatus, 0)
        for task in self.tasks.values():
            counts[task.status] += 1
        assert self.run(self.store.count()) == counts
        versions = {ref: task.version for ref, task in self.tasks.items()}
        assert self.run(self.store.versions(list(self.tasks))) == versions

    @invariant()
    def listeners_heard_every_change_in_order(self) -> None:
        assert self.heard == self.told


def _retained(task: Task, now: datetime) -> bool:
    return task.expires_at is None or task.expires_at > now


def test_a_store_agrees_with_the_model(backend: Backend) -> None:
    kind = type("Machine", (StoreMachine,), {"backend": backend})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=backend.histories,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
