"""The drawing of the states, the policy, the context and the words are those of the code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from docs.pages import DOCS, PAGES, ROOT, block, table

from raincheck.domain.task import InputRequest, Outcome, Progress, Task, TaskError, TaskStatus
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
from raincheck.operations.context import TaskContext
from raincheck.operations.operation import Policy
from raincheck.timing.clock import utc_now

NOW = utc_now()
LATER = NOW + timedelta(hours=2)
QUESTIONS = tuple(InputRequest(key=key, method="elicitation/create", params={}) for key in "ab")

EVENTS: dict[type[Event], list[Event]] = {
    Claim: [Claim(worker_id="w", lease_until=LATER)],
    ReportProgress: [ReportProgress(fence=1, progress=Progress())],
    SaveCheckpoint: [SaveCheckpoint(fence=1, checkpoint={"job": 7})],
    AwaitExternal: [AwaitExternal(fence=1)],
    AskInput: [AskInput(fence=1, requests=QUESTIONS)],
    ProvideInput: [ProvideInput(responses={"a": {}}), ProvideInput(responses={"a": {}, "b": {}})],
    Settle: [
        Settle(fence=1, outcome=Outcome()),
        Settle(fence=1, outcome=Outcome(error=TaskError(code="c", message="m"))),
    ],
    CompleteExternally: [
        CompleteExternally(outcome=Outcome()),
        CompleteExternally(outcome=Outcome(error=TaskError(code="c", message="m"))),
    ],
    Release: [Release(fence=1)],
    LeaseExpired: [LeaseExpired()],
    DeadlinePassed: [DeadlinePassed()],
    Cancel: [Cancel()],
}


def _task(status: TaskStatus, *, retry: bool) -> Task:
    return Task(
        task_ref="ref",
        scope="local",
        operation_type="report",
        arguments={},
        created_at=NOW,
        updated_at=NOW,
        deadline_at=NOW + timedelta(hours=1),
        ttl_seconds=60,
        status=status,
        fence=1,
        attempt=1,
        lease_until=NOW,
        retry_when_lost=retry,
        inputs=QUESTIONS if status is TaskStatus.INPUT_REQUIRED else (),
    )


def _edges_of_the_table() -> dict[tuple[str, str], set[str]]:
    edges: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (status, kind), retry in product(TABLE, (True, False)):
        for event in EVENTS[kind]:
            after = transition(_task(status, retry=retry), event, LATER)
            edges[status.value, after.status.value].add(kind.__name__)
    return edges


def test_the_drawn_states_are_those_of_the_table_of_transitions() -> None:
    drawing = block(DOCS / "how-it-works.md", "transitions").code
    drawn: dict[tuple[str, str], set[str]] = {}
    for before, after, events in re.findall(r"^ +(\w+) --> (\w+): (.+)$", drawing, re.MULTILINE):
        assert (before, after) not in drawn
        drawn[before, after] = set(events.split(", "))
    assert drawn == _edges_of_the_table()
    ends = set(re.findall(r"(\w+) --> \[\*\]", drawing))
    assert ends == {status.value for status in TaskStatus if status.terminal}


def test_every_member_of_the_policy_is_documented_with_its_default() -> None:
    rows = table(DOCS / "library.md", "<!-- policy -->")
    assert list(rows) == [field.name for field in dataclasses.fields(Policy)]
    for field in dataclasses.fields(Policy):
        shown = rows[field.name][0].strip('`"')
        assert shown == str(field.default) or float(shown) == field.default


def test_every_member_of_the_context_is_documented() -> None:
    public = {name for name, _ in inspect.getmembers(TaskContext) if not name.startswith("_")} - {
        "mark_cancelled",
        "backend",
    }
    attributes = set(re.findall(r"^ {8}(\w+): ", inspect.getdoc(TaskContext) or "", re.MULTILINE))
    attributes |= set(re.findall(r"^    (\w+): ", inspect.getdoc(TaskContext) or "", re.MULTILINE))
    rows = " ".join(table(DOCS / "library.md", "<!-- context -->"))
    assert attributes
    for name in public | attributes:
        assert re.search(rf"\b{name}\b", rows), f"TaskContext.{name} is not in docs/library.md"


# Words.

SYNONYMS = {
    "job": "task",
    "jobs": "tasks",
    "job id": "task_ref",
    "job_id": "task_ref",
    "ticket id": "task_ref",
    "ticket_id": "task_ref",
    "ticket number": "task_ref",
    "queue item": "task",
    "work item": "task",
    "message broker": "engine",
    "broker": "engine",
    "result backend": "store",
    "visibility timeout": "lease",
    "fencing token": "fencing number",
    "keep-alive ping": "heartbeat",
    "reaper": "sweeper",
    "janitor": "sweeper",
    "garbage collector of tasks": "sweeper",
    "time to live": "retention",
    "time-to-live": "retention",
    "TTL": "retention",
    "tenant": "scope",
    "namespace": "scope",
    "dedup key": "idempotency_key",
    "deduplication key": "idempotency_key",
    "due date": "deadline",
    "time limit for the task": "deadline",
    "consumer": "worker",
}
OF_VENDORS = {
    "src/raincheck/engines/": {"job", "jobs", "consumer"},
    "src/raincheck/stores/dynamodb": {"TTL"},
    "src/raincheck/demo/": {"job", "jobs"},
    "src/raincheck/operations/http": {"job", "jobs"},
    "src/raincheck/config/sections/upstream_jobs": {"job", "jobs"},
    "src/raincheck/runtime/upstream_cleanup": {"job", "jobs"},
    "src/raincheck/runtime/execution.py": {"job"},
    "src/raincheck/runtime/process_identity": {"namespace"},
    "docs/how-it-works.md": {"namespace"},
    "docs/upstream-jobs.md": {"job", "jobs"},
    "docs/README.md": {"jobs"},
    "docs/troubleshooting.md": {"job", "jobs"},
}
"""The vendors' own words for what is theirs (a queue's job brings a task's id, an API's job does a task's work, a
kernel has namespaces), where they are spoken to."""


def _texts(source: Path) -> Iterator[tuple[int, str]]:
    """Every text in a module: messages and docstrings."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _synonyms_in(text: str, source: str = "") -> list[str]:
    text = re.sub("orphan[- ]reaper|raincheck-reaper", "", text, flags=re.IGNORECASE)
    spoken = {word for place, words in OF_VENDORS.items() if source.startswith(place) for word in words}
    return [
        f"{word!r} (say {SYNONYMS[word]!r})"
        for word in SYNONYMS.keys() - spoken
        if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, 0 if word.isupper() else re.IGNORECASE)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "benchmarks.md"], ids=lambda page: page.name)
def test_the_pages_use_no_synonyms_of_the_glossarys_words(page: Path) -> None:
    assert _synonyms_in(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()) == []


def test_the_codes_texts_use_no_synonyms_of_the_glossarys_words() -> None:
    found = [
        f"{source.relative_to(ROOT)}:{line}: {words}"
        for source in sorted((ROOT / "src").rglob("*.py"))
        for line, text in _texts(source)
        if (words := _synonyms_in(text, source.relative_to(ROOT).as_posix()))
    ]
    assert found == []


def test_the_glossary_has_the_words_that_the_design_fixes() -> None:
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    words = set(re.findall(r"^\*\*(.+)\*\*$", glossary, re.MULTILINE))
    assert words >= {
        *("operation", "task", "task_ref", "store", "engine", "worker", "lease", "heartbeat", "sweeper"),
        *("timeout", "deadline", "retention", "scope"),
    }


# Troubleshooting.


def _patterns_of(source: Path) -> Iterator[str]:
    """Every text in a module as its reader sees it, with … where a value stands."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[.\d]*[a-z]", "…", node.value)


def test_the_headings_of_troubleshooting_are_the_exact_texts_of_the_code() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(headings) >= 12
    texts = [text for source in (ROOT / "src").rglob("*.py") for text in _patterns_of(source)]
    for heading in headings:
        assert any(heading in text for text in texts), f"no code says {heading!r}"
