"""Reads the answers of tools, whichever SDK made them: mcp 1.x, mcp 2.x, FastMCP, or plain JSON objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from raincheck.client.errors import BadAnswer, error_from
from raincheck.client.models import TaskHandle, TaskResult, TaskView
from raincheck.domain.task import InputRequest, Progress, TaskError, TaskStatus
from raincheck.errors import CallError, RaincheckError

__all__ = [
    "Answer",
    "Session",
    "call_tool",
    "inline_result",
    "is_ticket",
    "read_answer",
    "read_requests",
    "read_ticket",
    "read_view",
    "refusal",
]

_TICKET = frozenset({"task_ref", "status", "operation_type", "next_step"})
_TICKET_OF_PROGRAMS = _TICKET | {"deduplicated", "created_at", "deadline_at", "poll_after_seconds"}
_STATUSES = {status.value: status for status in TaskStatus}
_LONGEST_QUOTE = 200


class Session(Protocol):
    """Whatever calls a server's tools: a session of mcp 1.x, a `Client` of mcp 2.x or FastMCP, a framework's own."""

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool; its result."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A tool result: its parts as JSON."""

    structured: Mapping[str, Any] | None
    content: tuple[Mapping[str, Any], ...]
    is_error: bool

    @property
    def text(self) -> str:
        """All text of it."""
        return "\n".join(str(block.get("text", "")) for block in self.content if block.get("type") == "text")

    def payload(self) -> Mapping[str, Any] | None:
        """The JSON object that the answer holds: `structuredContent`, else its one text."""
        if self.structured is not None:
            return self.structured
        if len(self.content) != 1:
            return None
        try:
            return _object(json.loads(self.text))
        except ValueError:
            return None


async def call_tool(session: Session, name: str, arguments: dict[str, Any]) -> Answer:
    """Call a tool and read its result. What the session raises goes through."""
    # FastMCP's own call_tool raises for isError and keeps the text alone; its raw form keeps the whole result.
    raw = getattr(session, "call_tool_mcp", None)
    result = await (session.call_tool(name, arguments) if raw is None else raw(name, arguments))
    return read_answer(result)


def read_answer(result: Any) -> Answer:
    """The parts of a tool result.

    Raises:
        BadAnswer: It is none.
    """
    blocks = _member(result, "content", "content")
    if not isinstance(blocks, list | tuple):
        raise BadAnswer(f"a tool result has content; this is a {type(result).__name__}")
    structured = _object(_member(result, "structuredContent", "structured_content"))
    return Answer(
        structured=structured,
        content=tuple(_block(block) for block in cast("list[Any]", blocks)),
        is_error=_member(result, "isError", "is_error") is True,
    )


def refusal(answer: Answer) -> RaincheckError | None:
    """Why the call was refused; None where it was not."""
    if not answer.is_error:
        return None
    error = _object((answer.payload() or {}).get("error"))
    if error is not None and "code" in error:
        return error_from(error)
    return CallError(answer.text[:_LONGEST_QUOTE] or "The tool answered with an error.")


def is_ticket(answer: Answer) -> bool:
    """Whether a typed tool answered with a ticket instead of its result.

    A ticket has few members, so an operation's own result could have them too: a short one counts only if it has
    nothing beside them, and tells to follow it.
    """
    payload = answer.payload()
    if answer.is_error or payload is None or not payload.keys() >= _TICKET:
        return False
    if not (payload.keys() >= _TICKET_OF_PROGRAMS or payload.keys() <= _TICKET_OF_PROGRAMS):
        return False
    if not all(isinstance(payload[key], str) and payload[key] for key in _TICKET):
        return False
    return payload["status"] in ("queued", *_STATUSES) and "resolve_task_status" in payload["next_step"]


def read_ticket(payload: Mapping[str, Any], *, idempotency_key: str | None = None) -> tuple[TaskHandle, float | None]:
    """The handle in a ticket, and when to ask.

    Raises:
        BadAnswer: It is no ticket.
    """
    task_ref, operation = payload.get("task_ref"), payload.get("operation_type")
    if not isinstance(task_ref, str) or not task_ref:
        raise BadAnswer("the server's ticket has no task_ref")
    operation_type = operation if isinstance(operation, str) else None
    handle = TaskHandle(task_ref=task_ref, operation_type=operation_type, idempotency_key=idempotency_key)
    return handle, _seconds(payload.get("poll_after_seconds"))


def read_view(payload: Mapping[str, Any], handle: TaskHandle) -> TaskView:
    """The task in a status.

    Raises:
        BadAnswer: It is none, or that of another task.
    """
    status = _STATUSES.get(str(payload.get("status")))
    if status is None or payload.get("task_ref") != handle.task_ref:
        raise BadAnswer("the server's answer is no status of this task", handle=handle)
    error = _object(payload.get("error"))
    if status is TaskStatus.FAILED and error is None:
        raise BadAnswer("the task failed, and the server does not say why", handle=handle)
    return TaskView(
        handle=handle,
        status=status,
        progress=_progress(payload.get("progress")),
        poll_after_seconds=_seconds(payload.get("poll_after_seconds")),
        eta_seconds=_seconds(payload.get("eta_seconds")),
        result=payload.get("result"),
        error=None if error is None else _error(error),
        requests=read_requests(payload.get("input_requests")),
        updated_at=updated_at if isinstance(updated_at := payload.get("updated_at"), str) else None,
    )


def read_requests(given: Any) -> tuple[InputRequest, ...]:
    """The questions by their keys."""
    found: list[InputRequest] = []
    for key, value in (_object(given) or {}).items():
        request = _object(value) or {}
        method = str(request.get("method") or "elicitation/create")
        found.append(InputRequest(key=key, method=method, params=_object(request.get("params")) or {}))
    return tuple(found)


def inline_result(answer: Answer) -> TaskResult:
    """The result of a call that answered at once.

    Raises:
        RaincheckError: The operation failed, or the call was refused, with a code of ours.
    """
    error = _object((answer.payload() or {}).get("error")) if answer.is_error else None
    if error is not None and "code" in error:
        raise error_from(error)
    value: Any = answer.structured
    if value is None:
        value = answer.text if all(block.get("type") == "text" for block in answer.content) else list(answer.content)
    return TaskResult(value=value, structured=answer.structured, content=answer.content, is_error=answer.is_error)


def _member(result: Any, wire_name: str, python_name: str) -> Any:
    if isinstance(result, Mapping):
        return cast("Mapping[str, Any]", result).get(wire_name)
    # Only one of them is asked for: FastMCP warns of the wire's name.
    return getattr(result, python_name if hasattr(result, python_name) else wire_name, None)


def _block(block: Any) -> Mapping[str, Any]:
    if isinstance(block, Mapping):
        return cast("Mapping[str, Any]", block)
    return block.model_dump(mode="json", by_alias=True, exclude_none=True)


def _object(value: Any) -> dict[str, Any] | None:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else None


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _progress(value: Any) -> Progress | None:
    given = _object(value)
    if given is None:
        return None
    message = given.get("message")
    return Progress(fraction=_seconds(given.get("fraction")), message=message if isinstance(message, str) else None)


def _error(error: Mapping[str, Any]) -> TaskError:
    return TaskError(
        code=str(error.get("code") or "internal"),
        message=str(error.get("message") or ""),
        retryable=error.get("retryable") is True,
        details=_object(error.get("details")) or {},
    )
