"""docs/handle-tools.md says what the tools take, give and refuse: no more and no less."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from docs.pages import DOCS, block, table

from raincheck import errors
from raincheck.domain.task import InputRequest, Outcome, Progress, Task, TaskError, TaskStatus
from raincheck.errors import ERROR_CODES, CallError, RaincheckError, TaskFailure
from raincheck.mcp.surfaces.handle_answers import Offer, status_answer, ticket_answer
from raincheck.mcp.surfaces.handle_definitions import HANDLE_TOOLS, HandleTool
from raincheck.mcp.wire import tool_results
from raincheck.ports.task_store import TaskSummary
from raincheck.timing.clock import utc_now

PAGE = DOCS / "handle-tools.md"
NOW = utc_now()
TASK = Task(
    task_ref="ref",
    scope="local",
    operation_type="report",
    arguments={},
    created_at=NOW,
    updated_at=NOW,
    deadline_at=NOW + timedelta(hours=1),
    ttl_seconds=60,
    progress=Progress(fraction=0.4, message="page 4 of 10"),
)
OFFER = Offer(3.0, 25.0, 2.0)
ASKING = InputRequest(key="1", method="elicitation/create", params={})


def _parameters(tool: HandleTool) -> dict[str, list[str]]:
    return table(PAGE, f"## {tool.name}")


def _fields(heading: str) -> set[str]:
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    fields = section.split("| field | meaning |\n")[1]
    return {name for line in fields.splitlines()[1:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}


@pytest.mark.parametrize("tool", HANDLE_TOOLS, ids=lambda tool: tool.name)
def test_a_tools_parameters_are_those_of_its_schema(tool: HandleTool) -> None:
    rows = _parameters(tool)
    assert set(rows) == set(tool.properties)
    for name, (kind, *_) in rows.items():
        assert kind.startswith(tool.properties[name]["type"])
        assert ("required" in kind) == (name in tool.required)


def test_the_page_has_a_section_for_every_handle_tool() -> None:
    sections = re.findall(r"^## (\w+_\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections == [tool.name for tool in HANDLE_TOOLS]


def _ticket(*, full: bool, deduplicated: bool = False) -> dict[str, Any]:
    return ticket_answer(TASK, OFFER, deduplicated=deduplicated, fresh=True, full=full, poll_after_seconds=1.0)


def _status(task: Task, *, full: bool) -> dict[str, Any]:
    return status_answer(task, OFFER, now=NOW, full=full, poll_after_seconds=2.0, eta_seconds=6.0 if full else None)


def _shown(marker: str) -> dict[str, Any]:
    return json.loads(block(PAGE, marker).code)


def test_the_ticket_is_documented_field_by_field_in_both_forms() -> None:
    for marker, full in (("answer of", False), ("answer of the full", True)):
        shown, ticket = _shown(f"{marker} initiate_background_task"), _ticket(full=full)
        assert list(shown) == list(ticket)
        assert shown["next_step"] == ticket["next_step"]
    every = _ticket(full=True) | _ticket(full=False, deduplicated=True)
    assert _fields("initiate_background_task") == set(every)
    _check_what_is_only_in_full("initiate_background_task", set(every) - set(_ticket(full=False, deduplicated=True)))


def test_the_status_is_documented_field_by_field_in_both_forms() -> None:
    for marker, full in (("answer of", False), ("answer of the full", True)):
        shown, status = _shown(f"{marker} resolve_task_status"), _status(TASK, full=full)
        status.pop("eta_seconds", None)
        assert list(shown) == list(status)
        assert shown["next_step"] == status["next_step"]
    ended = replace(TASK, status=TaskStatus.COMPLETED, progress=None, outcome=Outcome(value={"pages": 10}))
    assert list(_shown("answer of the last resolve_task_status")) == list(_status(ended, full=False))
    failed = replace(ended, outcome=Outcome(error=TaskError(code="timeout", message="m")))
    asking = replace(TASK, status=TaskStatus.INPUT_REQUIRED, inputs=(ASKING,))
    tasks = (TASK, ended, failed, asking)
    compact = set[str]().union(*(_status(task, full=False) for task in tasks))
    every = compact.union(*(_status(task, full=True) for task in tasks))
    assert _fields("resolve_task_status") == every
    # That the operation, and its times, are in full alone is said at the ticket.
    _check_what_is_only_in_full(
        "resolve_task_status", every - compact - set(_ticket(full=True)) | {"poll_after_seconds"}
    )
    statuses = PAGE.read_text(encoding="utf-8").split("| `status` |")[2].split("\n")[0]
    assert set(re.findall(r"`(\w+)`", statuses)) == {status.value for status in TaskStatus}


def _check_what_is_only_in_full(heading: str, fields: set[str]) -> None:
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \| In full", section, re.MULTILINE)) == fields


def test_a_row_of_the_list_is_documented() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## list_background_tasks\n")[1].split("\n## ")[0]
    assert set(tool_results.summary_of(TaskSummary.of(TASK))) <= set(re.findall(r"`(\w+)`", section))


def test_every_error_code_is_documented_where_it_belongs_and_as_retryable_as_it_is() -> None:
    calls, tasks = table(PAGE, "### The call was wrong or refused"), table(PAGE, "### The task failed")
    assert set(calls) | set(tasks) == set(ERROR_CODES)
    for name in errors.__all__:
        cls = getattr(errors, name)
        if not (isinstance(cls, type) and issubclass(cls, RaincheckError)) or cls in (CallError, TaskFailure):
            continue
        for base, documented in ((CallError, calls), (TaskFailure, tasks)):
            if issubclass(cls, base):
                told = documented[cls.code][0]
                assert told in ({"yes"} if cls.default_retryable else {"no", "can be"}), cls.code


def test_the_shown_error_has_the_members_of_an_error() -> None:
    shown = json.loads(block(PAGE, "error").code)
    assert list(shown) == list(TaskError(code="timeout", message="m").public())
