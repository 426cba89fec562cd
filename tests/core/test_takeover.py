"""A task whose worker's process is gone does not wait for its lease, nor is its progress shown as work under way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raincheck.domain.task import InputRequest, Progress, Task, TaskStatus
from raincheck.domain.transitions import AskInput, Claim, ReportProgress, transition
from raincheck.operations.context import TaskContext
from raincheck.operations.orphan_reaper import OrphanReaper, reaper_running
from raincheck.ports.task_store import Capabilities, TaskQuery, TaskSummary
from raincheck.runtime import lost_workers
from raincheck.runtime.lost_workers import LostWorkers, WorkerProcesses
from raincheck.runtime.process_identity import Kernel, ProcessIdentity, identity_in, own_identity, parse_stat, worker_id
from raincheck.runtime.service import Service
from raincheck.runtime.sweeper import Sweeper, SweepTimes
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.tasks.registry import Registry
from raincheck.tasks.views import OPERATOR
from raincheck.tasks.writer import TaskWriter
from support.lab import Lab

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

HOUR = timedelta(hours=1)
HALF = Progress(fraction=0.5, message="half")


def now() -> datetime:
    return datetime.now(UTC)


def me() -> ProcessIdentity:
    identity = own_identity(Kernel())
    assert identity is not None
    return identity


def name_of(identity: ProcessIdentity) -> str:
    return worker_id("box", "00ff", identity.pid, identity)


@contextmanager
def process() -> Generator[tuple[subprocess.Popen[bytes], str]]:
    """A process, and the name of the worker that it is."""
    running = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        started = parse_stat(Path(f"/proc/{running.pid}/stat").read_text()).started
        yield running, name_of(me()._replace(pid=running.pid, started=started))
    finally:
        running.kill()
        running.communicate()


@pytest.fixture
def dead() -> str:
    """The name of a worker whose process is gone."""
    with process() as (_, name):
        pass
    return name


@pytest.fixture
async def store(lab: Lab) -> AsyncGenerator[SqliteStore]:
    opened = SqliteStore(lab.path)
    await opened.open()
    yield opened
    await opened.close()


def record(ref: str, *, retry: bool = True, **others: Any) -> Task:
    values: dict[str, Any] = {"max_attempts": 3, "created_at": now(), "updated_at": now(), **others}
    return Task(
        task_ref=ref,
        scope="a",
        operation_type="work",
        arguments={},
        deadline_at=now() + HOUR,
        ttl_seconds=60,
        retry_when_lost=retry,
        **values,
    )


async def claimed(
    store: SqliteStore, worker: str, ref: str = "ref", *, lease: timedelta = HOUR, retry: bool = True, **others: Any
) -> Task:
    """A task that is half done by that worker, as far as the store knows."""
    task = (await store.insert(record(ref, retry=retry, **others))).task
    for event in (
        Claim(worker_id=worker, lease_until=now() + lease),
        ReportProgress(fence=task.fence + 1, progress=HALF),
    ):
        task = transition(task, event, now())
        assert await store.replace(task)
    return task


class Rig:
    """A sweeper that takes over, its searches counted and its reapers invented."""

    def __init__(self, store: SqliteStore) -> None:
        self.returned: list[Task] = []
        self.pages: list[int] = []
        self.guarded: list[bool | None] = []
        self.asked: list[int] = []
        listing = store.list

        async def counted(query: TaskQuery) -> Sequence[TaskSummary]:
            page = await listing(query)
            self.pages.append(len(page))
            return page

        store.list = counted  # pyright: ignore[reportAttributeAccessIssue]
        self.sweeper = Sweeper(
            store,
            TaskWriter(store, now),
            SweepTimes(sweep=1.0),
            returned=self.give_back,
            lost_workers=LostWorkers(store, WorkerProcesses(me(), Kernel()), guarded=self.reaper),
        )

    async def give_back(self, task: Task) -> None:
        self.returned.append(task)

    def reaper(self, pid: int) -> bool | None:
        self.asked.append(pid)
        return self.guarded.pop(0) if self.guarded else False


async def read(store: SqliteStore, ref: str = "ref") -> Task:
    task = await store.get(ref)
    assert task is not None
    return task


async def test_what_may_run_again_is_pending_at_once_and_its_progress_is_gone(store: SqliteStore, dead: str) -> None:
    await claimed(store, dead)
    rig = Rig(store)
    assert await rig.sweeper.take_over() == 1
    task = await read(store)
    assert (task.status, task.progress, task.worker_id, task.attempt) == (TaskStatus.PENDING, None, None, 1)
    assert rig.returned == [task]
    assert await rig.sweeper.take_over() == 0


async def test_what_never_starts_twice_is_settled_at_once(store: SqliteStore, dead: str) -> None:
    await claimed(store, dead, retry=False)
    rig = Rig(store)
    assert await rig.sweeper.take_over() == 1
    task = await read(store)
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert task.outcome.error.code == "worker_lost"
    assert rig.returned == []


async def test_a_task_that_kills_its_workers_is_given_up_all_the_same(store: SqliteStore, dead: str) -> None:
    await claimed(store, dead, max_attempts=1)
    assert await Rig(store).sweeper.take_over() == 1
    assert (await read(store)).status is TaskStatus.FAILED


async def test_a_task_that_waits_for_its_caller_is_taken_over_too(store: SqliteStore, dead: str) -> None:
    task = await claimed(store, dead)
    question = InputRequest(key="1-1", method="elicitation/create", params={})
    assert await store.replace(transition(task, AskInput(fence=1, requests=(question,)), now()))
    assert await Rig(store).sweeper.take_over() == 1
    assert (await read(store)).inputs == ()


@pytest.mark.parametrize("retry", [True, False])
async def test_who_lives_or_cannot_be_seen_keeps_its_lease(store: SqliteStore, dead: str, *, retry: bool) -> None:
    identity = identity_in(dead)
    assert identity is not None
    elsewhere = name_of(identity._replace(machine="0123456789abcdef"))
    with process() as (running, alive), process() as (stopped, standing):
        stopped.send_signal(signal.SIGSTOP)
        for worker in (alive, standing, elsewhere, name_of(me()), "box-1-00ff", "dead"):
            await claimed(store, worker, ref=worker, retry=retry)
        rig = Rig(store)
        assert await rig.sweeper.take_over() == 0
        assert await rig.sweeper.sweep() == 0
        assert running.poll() is None


async def test_a_task_that_another_worker_has_by_now_is_left_to_it(
    store: SqliteStore, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await claimed(store, dead)
    rig = Rig(store)
    get = store.get

    async def taken_meanwhile(ref: str) -> Task | None:
        task = await get(ref)
        assert task is not None
        newer = replace(task, version=task.version + 1, fence=2, attempt=2, worker_id=name_of(me()))
        assert await store.replace(newer)
        return task

    monkeypatch.setattr(store, "get", taken_meanwhile)
    assert await rig.sweeper.take_over() == 0
    monkeypatch.undo()
    assert (await read(store)).worker_id == name_of(me())


async def test_children_are_given_their_guardian_s_time(store: SqliteStore, dead: str) -> None:
    await claimed(store, dead)
    await claimed(store, dead, ref="other")
    rig = Rig(store)
    rig.guarded = [True, True]
    assert [await rig.sweeper.take_over() for _ in range(3)] == [0, 0, 2]
    assert len(rig.asked) == 3, "a worker's reaper is looked for once a search"


async def test_a_guardian_that_cannot_be_seen_is_given_a_fixed_time(
    store: SqliteStore, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 1000.0
    monkeypatch.setattr(lost_workers, "monotonic", lambda: at)
    await claimed(store, dead)
    rig = Rig(store)
    rig.guarded = [None, None, None]
    assert await rig.sweeper.take_over() == 0
    at += 2.9
    assert await rig.sweeper.take_over() == 0
    at += 0.2
    assert await rig.sweeper.take_over() == 1


async def test_a_search_reads_one_page_however_many_tasks_are_leased(
    store: SqliteStore, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_workers, "_PAGE", 4)
    rig = Rig(store)
    assert await rig.sweeper.take_over() == 0
    assert rig.pages == [0]
    for number in range(10):
        await claimed(store, name_of(me()), ref=f"living-{number}")
    rig.pages.clear()
    for _ in range(3):
        assert await rig.sweeper.take_over() == 0
    assert rig.pages == [4, 4, 2], "each goes on where the last ended"
    rig.pages.clear()
    await claimed(store, dead, ref="lost", created_at=now() - HOUR)
    await claimed(store, dead, ref="lost too")
    assert await rig.sweeper.take_over() == 2
    assert rig.pages == [4, 4, 4, 4, 0], "one of a lost worker has all of them read"
    rig.pages.clear()
    assert [await rig.sweeper.take_over() for _ in range(3)] == [0, 0, 0]
    assert rig.pages == [4, 4, 2, 4, 4]


async def test_the_first_search_reads_them_all(store: SqliteStore, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_workers, "_PAGE", 3)
    for number in range(10):
        await claimed(store, dead, ref=f"lost-{number}")
    for number in range(5):
        await claimed(store, name_of(me()), ref=f"living-{number}")
    rig = Rig(store)
    assert await rig.sweeper.take_over() == 10
    assert await store.count() == {
        **dict.fromkeys(TaskStatus, 0),
        TaskStatus.PENDING: 10,
        TaskStatus.PROCESSING: 5,
    }


class Remote(SqliteStore):
    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, remote=True)


async def test_a_store_on_the_network_keeps_to_leases(lab: Lab, dead: str) -> None:
    @lab.operation("work", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> int:
        return context.attempt

    async with started(lab, dead) as service:
        task = await service.registry.wait("ref", scope="a", seconds=5)
        assert task.status is TaskStatus.COMPLETED
    lab.path = lab.path.with_name("other.db")
    async with started(lab, dead, store=Remote(lab.path)) as service:
        task = await service.registry.wait("ref", scope="a", seconds=1.2)
        assert (task.status, task.progress, task.attempt) == (TaskStatus.PROCESSING, HALF, 1)


@asynccontextmanager
async def started(lab: Lab, worker: str, **settings: Any) -> AsyncGenerator[Service]:
    """A service on a file with a task that this worker holds for an hour."""
    opened = SqliteStore(lab.path)
    await opened.open()
    await claimed(opened, worker)
    await opened.close()
    async with lab.service(**settings) as service:
        yield service


def test_the_guardian_of_a_process_is_seen_while_it_runs() -> None:
    reaper = OrphanReaper()
    reaper.mark()
    try:
        # A program's arguments are there a moment after its start has been told of.
        until = time.monotonic() + 5
        while not reaper_running(os.getpid()) and time.monotonic() < until:
            time.sleep(0.01)
        assert reaper_running(os.getpid()) is True
        assert reaper_running(1) is False
    finally:
        reaper.close()


# What callers are shown.


def registry(store: SqliteStore, *, at: datetime | None = None, living: bool = True) -> Registry:
    return Registry(
        store,
        {},
        TaskWriter(store, lambda: at or now()),
        worker_gone=lambda worker: not living and worker == "worker",
    )


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize(
    ("retry", "max_attempts", "shown"),
    [(True, 3, TaskStatus.PENDING), (True, 1, TaskStatus.PROCESSING), (False, 3, TaskStatus.PROCESSING)],
)
async def test_a_lost_attempt_is_not_shown_as_work_under_way(
    store: SqliteStore, *, gone: bool, retry: bool, max_attempts: int, shown: TaskStatus
) -> None:
    await claimed(store, "worker", retry=retry, max_attempts=max_attempts)
    alive = await registry(store).get("ref", scope="a")
    assert (alive.status, alive.progress) == (TaskStatus.PROCESSING, HALF)
    lost = registry(store, living=False) if gone else registry(store, at=now() + HOUR)
    for task in (
        await lost.get("ref", scope="a"),
        await lost.wait("ref", scope="a", seconds=0),
        await lost.wait_for_change(alive, scope="a", seconds=0),
        await lost.provide_input("ref", {}, scope="a"),
    ):
        assert (task.status, task.progress, task.version) == (shown, None, alive.version)
    assert (await lost.get("ref", scope=OPERATOR)).progress == HALF, "whoever runs the store sees what is there"
    assert await read(store) == await lost.get("ref", scope=OPERATOR)
    if gone:
        assert [each.progress for each in await lost.list(scope="a")] == [None]


async def test_a_question_of_a_lost_attempt_can_still_be_answered(store: SqliteStore) -> None:
    task = await claimed(store, "worker")
    question = InputRequest(key="1-1", method="elicitation/create", params={})
    assert await store.replace(transition(task, AskInput(fence=1, requests=(question,)), now()))
    lost = registry(store, living=False)
    task = await lost.get("ref", scope="a")
    assert (task.status, task.progress) == (TaskStatus.INPUT_REQUIRED, None)
    task = await lost.provide_input("ref", {"1-1": {"action": "accept"}}, scope="a")
    assert (task.status, task.progress) == (TaskStatus.PENDING, None)


@pytest.fixture
def unswept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody settles what is lost."""

    async def nothing(sweeper: Sweeper) -> int:
        return 0

    monkeypatch.setattr(Sweeper, "sweep", nothing)
    monkeypatch.setattr(Sweeper, "take_over", nothing)


@pytest.mark.usefixtures("unswept")
async def test_a_lease_that_was_renewed_meanwhile_is_no_lost_attempt(lab: Lab, store: SqliteStore) -> None:
    """A watch does not tell of renewals: the record that a held call began with is old at its end."""
    await claimed(store, "worker", lease=timedelta(seconds=0.4))
    async with lab.service(max_concurrency=0) as service:
        holding = asyncio.create_task(service.registry.wait("ref", scope="a", seconds=1.5))
        waiting = asyncio.create_task(service.registry.wait("ref", scope="a", seconds=1.5))
        seen = await read(store)
        changing = asyncio.create_task(service.registry.wait_for_change(seen, scope="a", seconds=1.5))
        await asyncio.sleep(0.1)
        assert await store.renew("worker", {"ref": 1}, now() + HOUR) == set()
        for task in await asyncio.gather(holding, waiting, changing):
            assert (task.status, task.progress) == (TaskStatus.PROCESSING, HALF)


@pytest.mark.usefixtures("unswept")
async def test_a_call_that_is_held_while_the_lease_runs_out_is_answered_without_progress(
    lab: Lab, store: SqliteStore
) -> None:
    await claimed(store, "worker", lease=timedelta(seconds=0.2))
    async with lab.service(max_concurrency=0) as service:
        task = await service.registry.wait("ref", scope="a", seconds=0.5)
    assert (task.status, task.progress) == (TaskStatus.PENDING, None)


@pytest.mark.usefixtures("unswept")
async def test_the_ticket_of_a_repeated_call_shows_no_lost_attempt(lab: Lab, store: SqliteStore, dead: str) -> None:
    @lab.operation("work", on_worker_lost="retry")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> None:
        pass

    async with lab.service(max_concurrency=0) as service:
        task = (await service.registry.submit("work", {}, scope="a", idempotency_key="k")).task
        for event in (
            Claim(worker_id=dead, lease_until=now() + HOUR),
            ReportProgress(fence=1, progress=HALF),
        ):
            task = transition(task, event, now())
            assert await store.replace(task)
        again = await service.registry.submit("work", {}, scope="a", idempotency_key="k")
        assert again.deduplicated
        assert (again.task.status, again.task.progress) == (TaskStatus.PENDING, None)
