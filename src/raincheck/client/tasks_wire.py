"""The messages of the tasks extension (SEP-2663) as a client sends and reads them. Needs mcp 2.x."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

from mcp_types import CallToolResult, ErrorData, InputRequest, Request, RequestParams, Result
from pydantic import Field, TypeAdapter, ValidationError

from raincheck.client.errors import BadAnswer
from raincheck.client.models import TaskHandle, TaskView
from raincheck.domain.task import InputRequest as Question
from raincheck.domain.task import Progress, TaskStatus

TASKS_EXTENSION = "io.modelcontextprotocol/tasks"
ETA = "raincheck/eta-seconds"

_WireStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]
_STATUSES = {
    "working": TaskStatus.PROCESSING,
    "input_required": TaskStatus.INPUT_REQUIRED,
    "completed": TaskStatus.COMPLETED,
    "failed": TaskStatus.FAILED,
    "cancelled": TaskStatus.CANCELLED,
}
_REQUESTS: TypeAdapter[InputRequest] = TypeAdapter(InputRequest)


class TaskParams(RequestParams):
    """Names the task and, in `tasks/update`, answers its questions."""

    task_id: str = Field(alias="taskId")
    input_responses: dict[str, dict[str, Any]] | None = Field(default=None, alias="inputResponses")


TaskMethod = Literal["tasks/get", "tasks/update", "tasks/cancel"]


class TaskRequest(Request[TaskParams, TaskMethod]):
    """A call of one of the methods."""

    name_param = "taskId"


class Acknowledged(Result):
    """The answer of `tasks/update` and `tasks/cancel`."""

    result_type: str = Field(default="complete", alias="resultType")


class _Task(Result):
    task_id: str = Field(alias="taskId", min_length=1)
    status: _WireStatus
    status_message: str | None = Field(default=None, alias="statusMessage")
    poll_interval_ms: float | None = Field(default=None, alias="pollIntervalMs")


class CreatedTask(_Task):
    """`CreateTaskResult`: the call became a task."""

    result_type: Literal["task"] = Field(default="task", alias="resultType")


class DetailedTask(_Task):
    """The answer of `tasks/get`: the whole task."""

    result: dict[str, Any] | None = None
    error: ErrorData | None = None
    # As it comes: one question that this client does not understand must not hide the others.
    requests: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]], alias="inputRequests")


def view_of(task: _Task, handle: TaskHandle) -> TaskView:
    """The task in the words of the handle tools.

    Raises:
        BadAnswer: It is another task.
    """
    if task.task_id != handle.task_ref:
        raise BadAnswer("the server answered with another task", handle=handle)
    asked = task.requests if isinstance(task, DetailedTask) else {}
    return TaskView(
        handle=handle,
        status=_STATUSES[task.status],
        progress=None if task.status_message is None else Progress(message=task.status_message),
        poll_after_seconds=None if task.poll_interval_ms is None else task.poll_interval_ms / 1000,
        eta_seconds=_eta(task),
        requests=tuple(_question(key, request) for key, request in asked.items()),
    )


def _eta(task: _Task) -> float | None:
    seconds = (task.meta or {}).get(ETA)
    return float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else None


def call_result(task: DetailedTask, handle: TaskHandle) -> CallToolResult:
    """What the call would have returned.

    Raises:
        BadAnswer: That is no tool result.
    """
    try:
        return CallToolResult.model_validate(task.result, by_name=False)
    except ValidationError as error:
        raise BadAnswer("the task is completed, and its result is no tool result", handle=handle) from error


def call_error(task: DetailedTask, handle: TaskHandle) -> ErrorData:
    """The JSON-RPC error that the call would have been answered with.

    Raises:
        BadAnswer: There is none.
    """
    if task.error is None:
        raise BadAnswer("the task failed, and the server does not say why", handle=handle)
    return task.error


def request_of(question: Question, handle: TaskHandle) -> InputRequest:
    """A question of the task as the request that it stands for.

    Raises:
        BadAnswer: It is no elicitation, sampling or roots request.
    """
    try:
        return _REQUESTS.validate_python({"method": question.method, "params": dict(question.params)}, by_name=False)
    except ValidationError as error:
        raise BadAnswer(f"the task asks by {question.method!r}, which is no input request", handle=handle) from error


def _question(key: str, request: Mapping[str, Any]) -> Question:
    params = request.get("params")
    given = cast("dict[str, Any]", params) if isinstance(params, dict) else {}
    return Question(key=key, method=str(request.get("method")), params=given)
