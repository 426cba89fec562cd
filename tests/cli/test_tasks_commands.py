"""`raincheck tasks`: list, show, cancel, retry and purge on a store's file."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from raincheck.domain.caller import Caller, Credentials
from raincheck.domain.task import InputRequest, TaskStatus
from raincheck.domain.transitions import AskInput
from raincheck.stores.sqlite.store import SqliteStore
from support.command_line import CommandLine, Tasks, claimed, completed, failed, progressed


def test_the_list_shows_tasks_newest_first_with_status_progress_and_error(raincheck: CommandLine, tasks: Tasks) -> None:
    oldest = tasks.add(*failed("upstream_error", "no answer"), age=timedelta(hours=3))
    middle = tasks.add(*progressed(), age=timedelta(minutes=5))
    newest = tasks.add()
    said = raincheck("tasks", "list")
    assert said.code == 0
    head, *lines = said.out.splitlines()
    assert head.split() == ["TASK_REF", "OPERATION", "STATUS", "ACCEPTED", "LASTED", "PROGRESS"]
    assert [line.split()[0] for line in lines] == [newest.task_ref, middle.task_ref, oldest.task_ref]
    assert "40% page 4 of 10" in lines[1]
    assert "failed: upstream_error" in lines[2]
    assert "3 h ago" in lines[2]


def test_the_list_is_one_json_document_for_programs(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add(*progressed())
    listed = raincheck("tasks", "list", "--json").json
    assert [each["task_ref"] for each in listed] == [task.task_ref]
    assert listed[0]["status"] == "processing"
    assert listed[0]["terminal"] is False
    assert listed[0]["progress"] == {"fraction": 0.4, "message": "page 4 of 10"}
    assert listed[0]["created_at"].endswith("Z")
    assert abs(datetime.fromisoformat(listed[0]["created_at"]) - task.created_at) < timedelta(milliseconds=1)


def test_the_list_is_filtered_by_status_operation_and_scope_and_limited(raincheck: CommandLine, tasks: Tasks) -> None:
    tasks.add(operation_type="convert")
    tasks.add(*completed(1))
    tasks.add(*failed("timeout", "late"), scope="bob")

    def refs(*args: str) -> int:
        return len(raincheck("tasks", "list", "--json", *args).json)

    assert refs() == 3
    assert refs("--status", "failed", "--status", "completed") == 2
    assert refs("--operation", "convert") == 1
    assert refs("--scope", "bob") == 1
    assert refs("--limit", "2") == 2
    limited = raincheck("tasks", "list", "--limit", "2")
    assert "--limit" in limited.err
    assert "SCOPE" in raincheck("tasks", "list").out


def test_a_long_list_takes_more_than_one_page(
    raincheck: CommandLine, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raincheck.cli.task_admin._PAGE", 2)
    refs = {tasks.add(age=timedelta(seconds=index // 3)).task_ref for index in range(7)}
    assert {each["task_ref"] for each in raincheck("tasks", "list", "--json").json} == refs


def test_a_task_is_shown_with_arguments_and_result(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add(*completed({"pages": [1, 2]}), idempotency_key="key-1")
    out = raincheck("tasks", "show", task.task_ref).out
    for part in (task.task_ref, "completed", "ada", "key-1", '"quarter": "Q3"', '"pages"', "kept until"):
        assert part in out
    shown = raincheck("tasks", "show", task.task_ref, "--json").json
    assert (shown["arguments"], shown["result"], shown["error"]) == ({"quarter": "Q3"}, {"pages": [1, 2]}, None)


def test_a_task_is_shown_with_its_caller_but_not_with_what_the_caller_was_let_in_with(
    raincheck: CommandLine, tasks: Tasks
) -> None:
    secret = Credentials(token="s3cr3t-token", claims={"email": "s3cr3t"}, headers={"authorization": "s3cr3t"})
    caller = Caller(scope="ada", subject="ada", claims={"org": "é\x1b[2J"}, client_name="codex", credentials=secret)
    task = tasks.add(caller=caller)
    shown = raincheck("tasks", "show", task.task_ref).out
    for part in ("caller ", "ada", "claims ", '"org"', "client ", "codex"):
        assert part in shown
    json = raincheck("tasks", "show", task.task_ref, "--json")
    assert json.json["caller"] == {"subject": "ada", "claims": {"org": "é\x1b[2J"}, "client_name": "codex"}
    listed = raincheck("tasks", "list").out + raincheck("tasks", "list", "--json").out
    assert "s3cr3t" not in shown + json.out + listed
    assert "\x1b" not in shown


def test_a_failed_task_is_shown_with_its_error(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add(*failed("operation_failed", "no paper"))
    assert "no paper" in raincheck("tasks", "show", task.task_ref).out
    shown = raincheck("tasks", "show", task.task_ref, "--json").json
    assert shown["error"] == {"code": "operation_failed", "message": "no paper", "retryable": False, "details": {}}


def test_a_task_that_waits_for_input_says_for_which(raincheck: CommandLine, tasks: Tasks) -> None:
    question = InputRequest(key="approve-1", method="elicitation/create", params={})
    task = tasks.add(claimed(), AskInput(fence=1, requests=(question,)))
    assert "approve-1" in raincheck("tasks", "show", task.task_ref).out


def test_a_long_result_is_cut_unless_it_is_wanted_whole(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add(*completed("x" * 5000))
    assert "--full shows all" in raincheck("tasks", "show", task.task_ref).out
    assert "x" * 5000 in raincheck("tasks", "show", task.task_ref, "--full").out
    assert raincheck("tasks", "show", task.task_ref, "--json").json["result"] == "x" * 5000


def test_what_a_task_holds_cannot_steer_the_terminal(raincheck: CommandLine, tasks: Tasks) -> None:
    evil = "\x1b[2J\x9b1m\u202e[red]\ud800"
    task = tasks.add(*failed("operation_failed", evil), operation_type="report", arguments={evil: evil})
    for args in (("show", task.task_ref), ("list",), ("show", task.task_ref, "--json")):
        said = raincheck("tasks", *args)
        assert said.code == 0
        assert not set("\x1b\x9b\u202e") & set(said.out)


def test_the_first_characters_of_a_task_ref_do(raincheck: CommandLine, tasks: Tasks) -> None:
    tasks.add(ref="abcd-1")
    tasks.add(ref="abce-2")
    assert raincheck("tasks", "show", "abcd", "--json").json["task_ref"] == "abcd-1"
    assert raincheck("tasks", "show", "abce-2", "--json").json["task_ref"] == "abce-2"
    several = raincheck("tasks", "show", "abc")
    assert several.code == 1
    assert "2 tasks begin with 'abc'" in several.err
    unknown = raincheck("tasks", "show", "zzz")
    assert unknown.code == 1
    assert "no task 'zzz'" in unknown.err
    assert raincheck("tasks", "show", "").code == 1


@pytest.mark.parametrize("ref", ["-abcdef", "--abcdef", "-j", "_x"])
def test_a_task_ref_that_begins_with_a_dash_is_no_option(raincheck: CommandLine, tasks: Tasks, ref: str) -> None:
    tasks.add(ref=ref)
    assert raincheck("tasks", "show", ref, "--json").json["task_ref"] == ref
    assert raincheck("tasks", "cancel", ref).code == 0


def test_a_task_is_cancelled_once_and_an_ended_one_stays(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add(*progressed())
    assert raincheck("tasks", "cancel", task.task_ref).out == f"{task.task_ref} is cancelled\n"
    stored = tasks.get(task.task_ref)
    assert stored is not None
    assert stored.status is TaskStatus.CANCELLED
    again = raincheck("tasks", "cancel", task.task_ref)
    assert (again.code, again.out) == (0, f"{task.task_ref} had ended before: cancelled\n")
    ended = tasks.add(*completed(1))
    assert raincheck("tasks", "cancel", ended.task_ref, "--json").json["status"] == "completed"


def test_a_retry_is_a_new_task_with_the_same_work_scope_and_limits(raincheck: CommandLine, tasks: Tasks) -> None:
    old = tasks.add(
        *failed("timeout", "late"),
        idempotency_key="key-1",
        ttl_seconds=7777.0,
        age=timedelta(hours=2),
        caller=Caller(scope="ada", subject="ada"),
    )
    said = raincheck("tasks", "retry", old.task_ref)
    new = tasks.get(said.out.strip())
    assert new is not None
    assert new.task_ref != old.task_ref
    assert (new.status, new.attempt, new.idempotency_key) == (TaskStatus.PENDING, 0, None)
    assert (new.operation_type, new.arguments, new.scope) == (old.operation_type, old.arguments, old.scope)
    assert new.caller == Caller(scope="ada", subject="ada")
    assert (new.deadline_at - new.created_at, new.ttl_seconds) == (old.deadline_at - old.created_at, 7777.0)
    assert new.created_at > old.created_at + timedelta(hours=1)


def test_a_task_that_has_not_ended_is_not_run_twice(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add(*progressed())
    said = raincheck("tasks", "retry", task.task_ref)
    assert said.code == 1
    assert "still processing" in said.err
    assert len(raincheck("tasks", "list", "--json").json) == 1


def test_purge_removes_what_has_expired_and_nothing_else(raincheck: CommandLine, tasks: Tasks) -> None:
    tasks.add(*completed(1), ttl_seconds=60.0, age=timedelta(minutes=5))
    kept = {tasks.add(*completed(1)).task_ref, tasks.add(age=timedelta(minutes=5), ttl_seconds=60.0).task_ref}
    assert raincheck("tasks", "purge").out == "1 tasks removed\n"
    assert {each["task_ref"] for each in raincheck("tasks", "list", "--json").json} == kept


def test_purge_by_age_removes_ended_tasks_only(raincheck: CommandLine, tasks: Tasks) -> None:
    tasks.add(*completed(1), age=timedelta(hours=13))
    kept = {tasks.add(*completed(1), age=timedelta(hours=11)).task_ref, tasks.add(age=timedelta(hours=13)).task_ref}
    assert raincheck("tasks", "purge", "--settled-before", "12h", "--yes", "--json").json == {"removed": 1}
    assert {each["task_ref"] for each in raincheck("tasks", "list", "--json").json} == kept


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("", 1, 1), ("y\n", 0, 0)])
def test_purge_by_age_asks_first(
    raincheck: CommandLine, tasks: Tasks, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    tasks.add(*completed(1), age=timedelta(hours=13))
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    said = raincheck("tasks", "purge", "--settled-before", "12h")
    assert said.code == code
    assert len(raincheck("tasks", "list", "--json").json) == left


@pytest.mark.parametrize("text", ["12", "h", "-1h", "1.5h", "12H", "1y", "", "9999999d"])
def test_a_malformed_duration_is_a_usage_error(raincheck: CommandLine, tasks: Tasks, text: str) -> None:
    said = raincheck("tasks", "purge", "--settled-before", text)
    assert said.code == 2
    assert "allowed: a number and s, m, h, d or w" in said.err


def test_without_a_store_the_commands_say_where_they_looked_and_make_no_file(
    raincheck: CommandLine, tmp_path: Path
) -> None:
    said = raincheck("tasks", "list")
    assert said.code == 1
    assert "no task store at" in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "state").exists()


def test_the_memory_store_cannot_be_looked_into(raincheck: CommandLine) -> None:
    Path("raincheck.toml").write_text('[state]\nprovider = "memory"\n')
    said = raincheck("tasks", "list")
    assert said.code == 2
    assert "inside the server only" in said.err


def test_another_store_is_named_by_flag_relative_to_the_working_folder_or_by_configuration(
    raincheck: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "conf").mkdir()
    task = Tasks(tmp_path / "other.db").add()
    (tmp_path / "conf" / "my.toml").write_text('[state]\nurl = "../other.db"\n')
    for args in (
        ("--state-url", "other.db"),
        ("--config", "conf/my.toml"),
        ("--config", "conf/my.toml", "--state-url", "other.db"),
    ):
        assert raincheck("tasks", "list", "--json", *args).json[0]["task_ref"] == task.task_ref


def test_a_file_that_is_no_store_is_one_line(raincheck: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("no database, but long enough to be read as one. " * 100)
    said = raincheck("tasks", "list", "--state-url", "notes.db")
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("raincheck: ")


def test_the_commands_work_while_another_process_has_the_store_open(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add()

    async def cancel_meanwhile(store: SqliteStore) -> None:
        said = await asyncio.to_thread(raincheck, "tasks", "cancel", task.task_ref)
        assert said.code == 0
        stored = await store.get(task.task_ref)
        assert stored is not None
        assert stored.status is TaskStatus.CANCELLED

    tasks.at_store(cancel_meanwhile)


def test_json_of_a_task_is_ascii_whatever_it_holds(raincheck: CommandLine, tasks: Tasks) -> None:
    task = tasks.add(*completed("Grüße 雨"))
    out = raincheck("tasks", "show", task.task_ref, "--json").out
    assert out.isascii()
    assert json.loads(out)["result"] == "Grüße 雨"
