"""Tasks as `raincheck tasks` shows them: JSON for programs, tables for people."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import click

from raincheck.cli.output import clean, pretty, print_table, span, timestamp
from raincheck.cli.stdout import check_reader
from raincheck.domain.redaction import redact_arguments, redact_outcome
from raincheck.domain.result_body import public_preview
from raincheck.domain.task import Progress, Task
from raincheck.ports.task_store import TaskSummary
from raincheck.timing.clock import utc_now

_SHOWN_CHARACTERS = 2000
_FOLLOW_SECONDS = 0.5
_CALLER = {
    "subject": "caller",
    "issuer": "issuer",
    "client_id": "client_id",
    "granted_scopes": "token scopes",
    "claims": "claims",
    "client_name": "client",
}


def summary_json(summary: TaskSummary) -> dict[str, Any]:
    """One element of `tasks list --json`."""
    return {
        "task_ref": summary.task_ref,
        "operation_type": summary.operation_type,
        "scope": summary.scope,
        "status": str(summary.status),
        "terminal": summary.status.terminal,
        "created_at": timestamp(summary.created_at),
        "updated_at": timestamp(summary.updated_at),
        "deadline_at": timestamp(summary.deadline_at),
        "settled_at": timestamp(summary.settled_at),
        "attempt": summary.attempt,
        "worker_id": summary.worker_id,
        "progress": _progress_json(summary.progress),
        "error_code": summary.error_code,
    }


def task_json(task: Task) -> dict[str, Any]:
    """`tasks show --json`: the summary, and what a listing leaves out."""
    error = task.outcome.error if task.outcome else None
    return {
        **summary_json(TaskSummary.of(task)),
        "started_at": timestamp(task.started_at),
        "lease_until": timestamp(task.lease_until),
        "expires_at": timestamp(task.expires_at),
        "idempotency_key": task.callers_key,
        "caller": task.called_by.public(),
        "on_worker_lost": "retry" if task.retry_when_lost else "fail",
        "max_attempts": task.max_attempts,
        "inputs": [
            {"key": each.key, "method": each.method, "answered": each.response is not None} for each in task.inputs
        ],
        "arguments": redact_arguments(task.arguments),
        "result": _result(task),
        "error": error.public() if error else None,
        "raised": error.raised._asdict() if error and error.raised else None,
    }


def print_summaries(summaries: Sequence[TaskSummary], *, limit: int) -> None:
    """A table, and a word where it may not be all."""
    if not summaries:
        click.echo("No tasks.")
        return
    now = utc_now()
    scopes = len({summary.scope for summary in summaries}) > 1
    columns = ["TASK_REF", "OPERATION", "STATUS", "ACCEPTED", "LASTED", "PROGRESS"] + ["SCOPE"] * scopes
    print_table(columns, [[*_row(summary, now), *[summary.scope] * scopes] for summary in summaries])
    if len(summaries) == limit:
        click.echo(f"(the newest {limit}; --limit shows more)", err=True)


async def follow(newest: Callable[[], Awaitable[Sequence[TaskSummary]]], *, as_json: bool) -> None:
    """Print a line for each task that `newest` gives, and for whatever changes in one of them, for ever."""
    told: dict[str, tuple[Any, ...]] = {}
    while True:
        found, now = await newest(), utc_now()
        changed = [each for each in reversed(found) if told.get(each.task_ref) != _seen(each)]
        for summary in changed:
            click.echo(json.dumps(summary_json(summary)) if as_json else clean(_line(summary, now)))
        # What is no longer among the newest is not told of again.
        told = {each.task_ref: _seen(each) for each in found}
        await asyncio.sleep(_FOLLOW_SECONDS)
        check_reader()


def _seen(summary: TaskSummary) -> tuple[Any, ...]:
    return summary.status, summary.attempt, summary.progress, summary.error_code


def _line(summary: TaskSummary, now: datetime) -> str:
    ref, operation, status, _, lasted, progress = _row(summary, now)
    at = now.astimezone().strftime("%H:%M:%S")
    return f"{at}  {ref}  {operation}  {status}  {lasted}  {progress}".rstrip()


def print_task(task: Task, *, full: bool) -> None:
    """Everything about one task, long values cut unless `full`."""
    now = utc_now()
    error = task.outcome.error if task.outcome else None
    facts = {
        "task_ref": task.task_ref,
        "operation": task.operation_type,
        "status": str(task.status),
        "scope": task.scope,
        "accepted": _moment(task.created_at, now),
        "started": _moment(task.started_at, now),
        "deadline": _moment(task.deadline_at, now) if not task.terminal else None,
        "settled": _moment(task.settled_at, now),
        "kept until": _moment(task.expires_at, now),
        "attempt": f"{task.attempt} of {task.max_attempts}" if task.retry_when_lost else str(task.attempt),
        "worker": task.worker_id,
        "idempotency_key": task.callers_key,
        "progress": _progress(task.progress) or None,
        "waits for": ", ".join(each.key for each in task.outstanding) or None,
        "raised": " at ".join(filter(None, error.raised)) if error and error.raised else None,
    }
    facts |= {_CALLER[name]: _told(value) for name, value in task.called_by.public().items()}
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if value is not None:
            click.echo(f"{name.ljust(width)}  {clean(value)}")
    sections = {
        "arguments": redact_arguments(task.arguments),
        "result": _result(task),
        "error": error.public() if error else None,
    }
    for name, value in sections.items():
        if value is not None:
            click.echo(f"\n{name}:\n{_cut(pretty(value), full)}")


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _row(summary: TaskSummary, now: datetime) -> list[str]:
    status = str(summary.status)
    return [
        summary.task_ref,
        summary.operation_type,
        f"{status}: {summary.error_code}" if summary.error_code else status,
        f"{span((now - summary.created_at).total_seconds())} ago",
        span(((summary.settled_at or now) - summary.created_at).total_seconds()),
        "" if summary.status.terminal else _progress(summary.progress),
    ]


def _progress(progress: Progress | None) -> str:
    if progress is None:
        return ""
    percent = "" if progress.fraction is None else f"{progress.fraction:.0%}"
    return " ".join(part for part in (percent, progress.message) if part)


def _progress_json(progress: Progress | None) -> dict[str, Any] | None:
    return None if progress is None else {"fraction": progress.fraction, "message": progress.message}


def _moment(moment: datetime | None, now: datetime) -> str | None:
    if moment is None:
        return None
    seconds = (now - moment).total_seconds()
    return (
        f"{timestamp(moment)} ({span(seconds)} ago)" if seconds >= 0 else f"{timestamp(moment)} (in {span(-seconds)})"
    )


def _result(task: Task) -> Any:
    if task.outcome is None:
        return None
    if task.outcome.large is not None:
        return public_preview(task.outcome.large)
    outcome = redact_outcome(task.outcome)
    return outcome.value if outcome.mcp_result is None else dict(outcome.mcp_result)


def _cut(text: str, full: bool) -> str:
    if full or len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}\n… ({len(text)} characters; --full shows all)"
