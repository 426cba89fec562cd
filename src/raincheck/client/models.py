"""Results of the drivers: storable handles, task views, and results."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, cast

from raincheck.domain.task import TERMINAL, InputRequest, Progress, TaskError, TaskStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskHandle:
    """A task, as its caller holds it: enough to resume it in another process.

    Attributes:
        task_ref: The task's id; `taskId` of the tasks extension.
        operation_type: What runs; None where only the id was kept.
        idempotency_key: The key that it was submitted with, where there was one.
    """

    task_ref: str
    operation_type: str | None = None
    idempotency_key: str | None = None

    def to_json(self) -> str:
        """One line of JSON, to be stored."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> TaskHandle:
        """The handle that `to_json` wrote; members that it does not know are left alone.

        Raises:
            ValueError: It is not one.
        """
        stored: Any = json.loads(text)
        members = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}
        task_ref = members.get("task_ref")
        others = {key: members.get(key) for key in ("operation_type", "idempotency_key")}
        if not isinstance(task_ref, str) or not task_ref:
            raise ValueError("a stored handle is a JSON object with a task_ref")
        if not all(value is None or isinstance(value, str) for value in others.values()):
            raise ValueError("operation_type and idempotency_key of a stored handle are texts")
        return cls(task_ref=task_ref, **others)


def handle_of(task: TaskHandle | str) -> TaskHandle:
    """The handle of a task that is named by its handle or its `task_ref`."""
    return TaskHandle(task_ref=task) if isinstance(task, str) else task


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskView:
    """A task as the server last told it.

    Attributes:
        handle: Which one.
        status: Where it is; the tasks extension's `working` is `processing`.
        progress: Its last report, None before the first.
        poll_after_seconds: When the server wants to be asked again, None where it does not say.
        eta_seconds: In how many seconds it has probably ended, None where the server does not say.
        result: What it returned, where it is completed.
        error: Why it failed, where it did.
        requests: What it asks its caller and has no answer to.
        updated_at: When it last changed, as the server writes it (ISO 8601); None where it does not say.
    """

    handle: TaskHandle
    status: TaskStatus
    progress: Progress | None = None
    poll_after_seconds: float | None = None
    eta_seconds: float | None = None
    result: Any = None
    error: TaskError | None = None
    requests: tuple[InputRequest, ...] = ()
    updated_at: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether it will not change any more."""
        return self.status in TERMINAL


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What a call came to, whether it became a task or not.

    Attributes:
        value: The operation's value: an object, a text, whatever JSON holds.
        structured: The same as a JSON object, where it is one.
        content: The content blocks of the tool result, as JSON objects.
        is_error: Whether a tool ran and reported an error that has no code of ours.
        handle: The task that it was; None where the call answered at once.
    """

    value: Any
    structured: Mapping[str, Any] | None
    content: tuple[Mapping[str, Any], ...]
    is_error: bool = False
    handle: TaskHandle | None = None

    @classmethod
    def of_value(cls, value: Any, handle: TaskHandle) -> TaskResult:
        """The result of a task whose status holds the plain value."""
        structured = cast("dict[str, Any]", value) if isinstance(value, dict) else None
        if structured is not None and set(structured) == {"content"} and isinstance(structured["content"], list):
            blocks = tuple(cast("list[Mapping[str, Any]]", structured["content"]))
            return cls(value=value, structured=None, content=blocks, handle=handle)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return cls(value=value, structured=structured, content=({"type": "text", "text": text},), handle=handle)


ProgressCallback: TypeAlias = Callable[[TaskView], object]
"""Called with the task whenever its status or progress has changed; awaited where it is a coroutine function."""

InputCallback: TypeAlias = Callable[[InputRequest], Awaitable[Mapping[str, Any] | None] | Mapping[str, Any] | None]
"""Answers one question of a task: `{"action": "accept" | "decline" | "cancel", "content": {…}}`; None: not now."""

SubmittedCallback: TypeAlias = Callable[[TaskHandle], object]
"""Called with the handle as soon as the task is accepted: the place to store it. Awaited likewise."""
