"""The handle tools: how a client that knows nothing of tasks starts, follows and ends them (design.md §4)."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from raincheck.config import PollingSettings
from raincheck.errors import CallError, InternalError, InvalidParameters, StoreError
from raincheck.hints import Hints, Lookup
from raincheck.hints_schedule import Ladder
from raincheck.mcp import wire
from raincheck.mcp.buckets import Buckets
from raincheck.mcp.scopes import ANONYMOUS
from raincheck.mcp.store_trouble import for_callers
from raincheck.registry import Registry, Submission
from raincheck.task import Task, TaskStatus, utc_now

__all__ = ["HANDLE_TOOLS", "HandleTool", "HandleTools", "answer_errors"]

logger = logging.getLogger(__name__)

LONGEST_WAIT = 25.0
"""The cap of `wait_seconds`: some callers give up after 30 seconds."""

_LONGEST_LIST = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class HandleTool:
    """One handle tool as `tools/list` shows it.

    Attributes:
        name, title, description: For the model, and for people.
        properties, required: Its input schema.
        read_only: Whether it changes nothing, so that a client may call it without asking its user.
    """

    name: str
    title: str
    description: str
    properties: Mapping[str, Any]
    required: tuple[str, ...]
    read_only: bool

    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of its parameters."""
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }


_REF = {"type": "string", "description": "The task_ref of the ticket."}

HANDLE_TOOLS: tuple[HandleTool, ...] = (
    HandleTool(
        name="initiate_background_task",
        title="Start a background task",
        description=(
            "Start a slow operation in the background. Answers at once with a task_ref; "
            "then call resolve_task_status until `terminal` is true. "
            "When you retry a call, pass the same idempotency_key: the work is then not done twice."
        ),
        properties={
            "operation_type": {"type": "string", "description": "Which operation: the name of its tool."},
            "parameters": {"type": "object", "description": "The operation's own parameters.", "default": {}},
            "max_wait_seconds": {"type": "number", "description": "Give up after so many seconds from now."},
            "idempotency_key": {"type": "string", "description": "Any text unique to this piece of work."},
            "callback_url": {
                "type": "string",
                "description": "Where the end is POSTed as a signed webhook; only to hosts that the server allows.",
            },
        },
        required=("operation_type",),
        read_only=False,
    ),
    HandleTool(
        name="resolve_task_status",
        title="Look at a background task",
        description=(
            "Status of a background task, and its result once `terminal` is true. "
            "Pass wait_seconds (up to 25) to wait for news instead of asking again and again."
        ),
        properties={
            "task_ref": _REF,
            "wait_seconds": {
                "type": "number",
                "description": "Wait at most so many seconds for news; 0: answer at once.",
            },
        },
        required=("task_ref",),
        read_only=True,
    ),
    HandleTool(
        name="cancel_background_task",
        title="Cancel a background task",
        description="Stop a background task whose result is no longer wanted. Calling it again does no harm.",
        properties={"task_ref": _REF},
        required=("task_ref",),
        read_only=False,
    ),
    HandleTool(
        name="provide_task_input",
        title="Answer a background task",
        description=(
            "Answer the questions of a task whose status is input_required: responses by the keys of its "
            'input_requests, each {"action": "accept" | "decline" | "cancel", "content": {…}}.'
        ),
        properties={
            "task_ref": _REF,
            "responses": {
                "type": "object",
                "additionalProperties": {"type": "object"},
                "description": "Answers by key.",
            },
        },
        required=("task_ref", "responses"),
        read_only=False,
    ),
    HandleTool(
        name="list_background_tasks",
        title="List background tasks",
        description="Your background tasks, newest first: finds a lost task_ref.",
        properties={
            "status": {"type": "string", "enum": [status.value for status in TaskStatus]},
            "limit": {"type": "integer", "minimum": 1, "maximum": _LONGEST_LIST, "default": 20},
        },
        required=(),
        read_only=True,
    ),
)

_BY_NAME = {tool.name: tool for tool in HANDLE_TOOLS}


async def answer_errors(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The boundary of every tool call of ours: an error becomes a result the model can read.

    A bug tells the caller a correlation id and the log the rest.
    """
    try:
        return await answer
    except CallError as error:
        return wire.call_error(error)
    except StoreError as error:
        return wire.call_error(for_callers(error))
    except Exception as error:  # the boundary that the docstring names
        if type(error).__module__.startswith("mcp."):
            raise
        correlation = secrets.token_hex(8)
        logger.exception("a tool call failed, correlation id %s", correlation)
        details = {"correlation_id": correlation}
        return wire.call_error(InternalError("Something went wrong in the server.", details=details))


class HandleTools:
    """Answers calls of the handle tools.

    Args:
        registry: The use cases.
        polling: The ladder that the hints follow, and whether they learn.
        history: Looks up what is known of an operation.
        clock: The wall clock.

    Attributes:
        hold_seconds: How long an answer without news is held for a caller that names no time of its own.
    """

    def __init__(
        self,
        registry: Registry,
        polling: PollingSettings,
        *,
        history: Lookup | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._registry = registry
        ladder = Ladder(polling.initial_interval_ms / 1000, polling.max_interval_ms / 1000, polling.backoff_multiplier)
        self._hints = Hints(ladder, history if polling.learn else None)
        self.hold_seconds = polling.hold_seconds
        self._buckets = Buckets(polling.calls_per_second, polling.call_burst)
        self._clock = clock
        self._handlers: dict[str, Callable[[Mapping[str, Any], str], Awaitable[dict[str, Any]]]] = {
            "initiate_background_task": self._initiate,
            "resolve_task_status": self._resolve,
            "cancel_background_task": self._cancel,
            "provide_task_input": self._provide,
            "list_background_tasks": self._list,
        }

    async def call(self, name: str, arguments: Mapping[str, Any], scope: str) -> dict[str, Any]:
        """The result of a call; errors are results too."""
        return await answer_errors(self._checked_call(name, arguments, scope))

    def admit(self, scope: str) -> None:
        """Count one call, of whichever surface, against what its caller may make.

        Raises:
            RateLimited: It calls too often.
        """
        self._buckets.take(scope)

    async def _checked_call(self, name: str, arguments: Mapping[str, Any], scope: str) -> dict[str, Any]:
        self.admit(scope)
        tool = _BY_NAME[name]
        for key in arguments:
            if key not in tool.properties:
                allowed = ", ".join(tool.properties)
                raise InvalidParameters(f"{name} has no parameter {key[:80]!r}. Allowed: {allowed}.")
        for key in tool.required:
            if key not in arguments:
                raise InvalidParameters(f"{name} needs the parameter {key!r}.")
        return await self._handlers[name](arguments, scope)

    def poll_after(self, task: Task) -> float | None:
        """When to ask again, in seconds: as the operation's history says, before there is one by the polling ladder;
        None once there is nothing to wait for.
        """
        return self._hints.poll_after(task, self._clock())

    def eta(self, task: Task) -> float | None:
        """In how many seconds the task has probably ended, where the operation's history says."""
        return self._hints.eta(task, self._clock())

    def ticket(self, submission: Submission, *, waited: bool = False) -> dict[str, Any]:
        """The ticket for an accepted call."""
        task = submission.task
        fresh = not submission.deduplicated and not waited
        return wire.json_result(
            wire.ticket_of(
                task,
                deduplicated=submission.deduplicated,
                poll_after_seconds=self._hints.poll_after(task, task.created_at if fresh else self._clock()) or 0.0,
                status="queued" if fresh else task.status.value,
            )
        )

    async def _initiate(self, arguments: Mapping[str, Any], scope: str) -> dict[str, Any]:
        parameters = arguments.get("parameters")
        submission = await self._registry.submit(
            _text(arguments, "operation_type"),
            {} if parameters is None else _object(arguments, "parameters"),
            scope=scope,
            max_wait_seconds=_number(arguments, "max_wait_seconds"),
            idempotency_key=_text(arguments, "idempotency_key")
            if arguments.get("idempotency_key") is not None
            else None,
            callback_url=_text(arguments, "callback_url") if arguments.get("callback_url") is not None else None,
        )
        return self.ticket(submission)

    async def _resolve(self, arguments: Mapping[str, Any], scope: str) -> dict[str, Any]:
        asked = _number(arguments, "wait_seconds")
        wait = self.hold_seconds if asked is None else min(asked, LONGEST_WAIT)
        if wait < 0:
            raise InvalidParameters(f"wait_seconds must be from 0 to {LONGEST_WAIT:g}; it was {wait:g}.")
        return self._status(await self._registry.hold(_text(arguments, "task_ref"), scope=scope, seconds=wait))

    async def _cancel(self, arguments: Mapping[str, Any], scope: str) -> dict[str, Any]:
        return self._status(await self._registry.cancel(_text(arguments, "task_ref"), scope=scope))

    async def _provide(self, arguments: Mapping[str, Any], scope: str) -> dict[str, Any]:
        responses = _object(arguments, "responses")
        for key, response in responses.items():
            if not isinstance(response, dict):
                raise InvalidParameters(f"The response to {key[:80]!r} must be an object with an action.")
        return self._status(await self._registry.provide_input(_text(arguments, "task_ref"), responses, scope=scope))

    async def _list(self, arguments: Mapping[str, Any], scope: str) -> dict[str, Any]:
        if scope == ANONYMOUS:
            raise InvalidParameters(
                "list_background_tasks is off for callers without authentication: they could see each other's tasks."
            )
        tasks = await self._registry.list(scope=scope, statuses=_statuses(arguments), limit=_limit(arguments))
        return wire.json_result({"tasks": [wire.summary_of(task) for task in tasks]})

    def _status(self, task: Task) -> dict[str, Any]:
        return wire.json_result(
            wire.status_of(task, poll_after_seconds=self.poll_after(task), eta_seconds=self.eta(task))
        )


def _text(arguments: Mapping[str, Any], key: str) -> str:
    value = arguments[key]
    if not isinstance(value, str) or not value:
        raise InvalidParameters(f"{key} must be a text that is not empty; it was {_kind(value)}.")
    return value


def _object(arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = arguments[key]
    if not isinstance(value, dict):
        raise InvalidParameters(f"{key} must be a JSON object; it was {_kind(value)}.")
    return value  # pyright: ignore[reportUnknownVariableType]  JSON objects have text keys


def _number(arguments: Mapping[str, Any], key: str) -> float | None:
    value = arguments.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidParameters(f"{key} must be a number of seconds; it was {_kind(value)}.")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidParameters(f"{key} must be a finite number of seconds.")
    return seconds


def _statuses(arguments: Mapping[str, Any]) -> Collection[TaskStatus]:
    value = arguments.get("status")
    if value is None:
        return ()
    try:
        return (TaskStatus(value),)
    except ValueError:
        allowed = ", ".join(status.value for status in TaskStatus)
        raise InvalidParameters(f"status must be one of {allowed}.") from None


def _limit(arguments: Mapping[str, Any]) -> int:
    value = arguments.get("limit", 20)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LONGEST_LIST:
        raise InvalidParameters(f"limit must be a whole number from 1 to {_LONGEST_LIST}.")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if value == "":
        return "empty text"
    names = {"str": "text", "bool": "a boolean", "int": "a number", "float": "a number", "list": "a list"}
    return names.get(type(value).__name__, "an object")
