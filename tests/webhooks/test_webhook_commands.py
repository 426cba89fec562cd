"""`raincheck tasks webhooks`: what is pending and what was given up is seen, and tried again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from raincheck.cli.main import main
from raincheck.domain.task import Task
from raincheck.ports.records import RecordQuery
from raincheck.ports.task_store import TaskStore
from raincheck.timing.clock import utc_now
from raincheck.webhooks.delivery import DEAD, PENDING, Delivery
from support.command_line import CommandLine, Said, Tasks, own_imports

URL = "https://hooks.example.com/secret-path?token=hunter2"


@pytest.fixture
def raincheck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def call(*args: str) -> Said:
        code = main(["tasks", *args])
        captured = capsys.readouterr()
        return Said(code=code, out=captured.out, err=captured.err)

    with own_imports():
        yield call


@pytest.fixture
def tasks(raincheck: CommandLine, tmp_path: Path) -> Tasks:
    folder = tmp_path / "state" / "raincheck"
    folder.mkdir(parents=True)
    return Tasks(folder / "tasks.db")


def keep(tasks: Tasks, ref: str, *, dead: bool, attempts: int = 3) -> None:
    now = utc_now()
    delivery = Delivery(
        task_ref=ref,
        operation_type="report",
        targets=(URL,),
        message={"type": "task.completed", "data": {"result": "hunter2"}},
        since=now - timedelta(days=2),
        attempts=attempts,
        error="status 500",
        died_at=now if dead else None,
    )
    record = (
        delivery.dead(ref, version=1) if dead else delivery.pending(ref, version=1, due_at=now + timedelta(hours=1))
    )

    async def put(store: TaskStore) -> None:
        assert await store.put_record(record)

    tasks.at_store(put)


def kinds(tasks: Tasks) -> dict[str, list[str]]:
    async def look(store: TaskStore) -> dict[str, list[str]]:
        return {kind: [record.key for record in await store.records(RecordQuery(kind))] for kind in (PENDING, DEAD)}

    return tasks.at_store(look)


def test_what_was_given_up_is_listed_before_what_is_pending_and_no_secret_is_shown(
    raincheck: CommandLine, tasks: Tasks
) -> None:
    keep(tasks, "ref-1", dead=False)
    keep(tasks, "ref-2", dead=True)
    listed = raincheck("webhooks", "list", "--json").json
    assert [(each["task_ref"], each["state"], each["attempts"]) for each in listed] == [
        ("ref-2", "dead", 3),
        ("ref-1", "pending", 3),
    ]
    assert listed[0]["hosts"] == ["https://hooks.example.com"]
    assert [each["state"] for each in raincheck("webhooks", "list", "--state", "dead", "--json").json] == ["dead"]
    assert len(raincheck("webhooks", "list", "--limit", "1", "--json").json) == 1
    table = raincheck("webhooks", "list")
    assert "status 500" in table.out
    for said in (str(listed), table.out):
        assert "hunter2" not in said
        assert "secret-path" not in said


def test_an_empty_list_says_so(raincheck: CommandLine, tasks: Tasks) -> None:
    tasks.add(ref="other")
    assert raincheck("webhooks", "list").out == "No deliveries.\n"


def test_a_dead_delivery_is_tried_again_by_its_task_ref_or_all_of_them(raincheck: CommandLine, tasks: Tasks) -> None:
    for ref in ("aaa-1", "aab-2", "bbb-3"):
        keep(tasks, ref, dead=True)
    assert raincheck("webhooks", "retry", "aaa").out == "1 delivery will be tried again\n"
    assert kinds(tasks) == {PENDING: ["aaa-1"], DEAD: ["aab-2", "bbb-3"]}
    assert raincheck("webhooks", "retry", "--all", "--json").json == {"retried": 2}
    assert kinds(tasks) == {PENDING: ["aaa-1", "aab-2", "bbb-3"], DEAD: []}
    listed = raincheck("webhooks", "list", "--json").json
    assert [each["attempts"] for each in listed] == [0, 0, 0]


def test_a_pending_delivery_is_tried_again_at_once(raincheck: CommandLine, tasks: Tasks) -> None:
    keep(tasks, "-xyz", dead=False)
    assert raincheck("webhooks", "retry", "-xyz", "--json").json == {"retried": 1}
    (listed,) = raincheck("webhooks", "list", "--json").json
    assert listed["due_at"] <= utc_now().isoformat()


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("retry",), 2, "give either a TASK_REF or --all"),
        (("retry", "x", "--all"), 2, "give either a TASK_REF or --all"),
        (("retry", "zzz"), 1, "no delivery of a task 'zzz'"),
        (("retry", ""), 1, "no delivery of a task ''"),
        (("retry", "ref"), 1, "deliveries of 2 tasks begin with 'ref'"),
        (("list", "--state", "lost"), 2, "'lost' is not one of"),
        (("list", "--limit", "0"), 2, "0 is not in the range"),
    ],
)
def test_a_wrong_call_is_one_line(
    raincheck: CommandLine, tasks: Tasks, args: tuple[str, ...], code: int, told: str
) -> None:
    keep(tasks, "ref-1", dead=True)
    keep(tasks, "ref-2", dead=True)
    said = raincheck("webhooks", *args)
    assert said.code == code
    assert told in said.err
    assert len(said.err.splitlines()) == 1


def test_a_task_that_an_operator_cancels_is_told_of(raincheck: CommandLine, tasks: Tasks) -> None:
    task: Task = tasks.add(ref="told", callback_url=URL)
    assert raincheck("cancel", task.task_ref).code == 0
    (listed,) = raincheck("webhooks", "list", "--json").json
    assert (listed["task_ref"], listed["event"], listed["state"]) == ("told", "cancelled", "pending")


def test_removing_an_ended_task_tells_nobody_again(raincheck: CommandLine, tasks: Tasks) -> None:
    task: Task = tasks.add(ref="told", callback_url=URL)
    raincheck("cancel", task.task_ref)

    async def deliver(store: TaskStore) -> None:
        for record in await store.records(RecordQuery(PENDING)):
            await store.remove_record(record)

    tasks.at_store(deliver)
    assert raincheck("purge", "--settled-before", "0s", "--yes", "--json").json == {"removed": 1}
    assert kinds(tasks) == {PENDING: [], DEAD: []}
