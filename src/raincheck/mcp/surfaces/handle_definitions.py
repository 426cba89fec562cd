"""The handle tools as `tools/list` shows them. Every byte here stands in every conversation, so they are short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class HandleTool:
    """One handle tool.

    Attributes:
        name, description: For the model.
        properties, required: Its input schema.
        read_only: Whether it changes nothing, so that a client may call it without asking its user.
        unlisted: Parameters that it takes and does not list: they are for programs.
        meta: `_meta` of its listing, for hosts.
    """

    name: str
    description: str
    properties: Mapping[str, Any]
    required: tuple[str, ...]
    read_only: bool
    unlisted: tuple[str, ...] = ()
    meta: Mapping[str, Any] | None = None

    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of its listed parameters."""
        schema: dict[str, Any] = {"type": "object", "properties": dict(self.properties)}
        return {**schema, "required": list(self.required)} if self.required else schema


_TEXT: Mapping[str, Any] = {"type": "string"}
_NUMBER: Mapping[str, Any] = {"type": "number"}
_COUNT: Mapping[str, Any] = {"type": "integer"}
_OBJECT: Mapping[str, Any] = {"type": "object"}

HANDLE_TOOLS: tuple[HandleTool, ...] = (
    HandleTool(
        name="initiate_background_task",
        description=(
            "Start a slow operation in the background; its task_ref comes at once. "
            "On a retry pass the same idempotency_key: the work is done once."
        ),
        properties={
            "operation_type": {"type": "string", "description": "Its tool's name"},
            "parameters": _OBJECT,
            "max_wait_seconds": _NUMBER,
            "idempotency_key": _TEXT,
            "callback_url": _TEXT,
        },
        required=("operation_type",),
        read_only=False,
        unlisted=("detail",),
    ),
    HandleTool(
        name="resolve_task_status",
        description=(
            "Wait for a background task and get its result; while it goes on, call again with the answer's `after`."
        ),
        properties={
            "task_ref": _TEXT,
            "after": _TEXT,
            "wait_seconds": _NUMBER,
            "result_offset": _COUNT,
            "result_length": _COUNT,
        },
        required=("task_ref",),
        read_only=True,
        unlisted=("detail",),
        # Claude Code loads tools when its model searches for them: a turn more, with the ticket already in its hands.
        meta={"anthropic/alwaysLoad": True},
    ),
    HandleTool(
        name="cancel_background_task",
        description="Stop a background task whose result is no longer wanted.",
        properties={"task_ref": _TEXT},
        required=("task_ref",),
        read_only=False,
        unlisted=("detail",),
    ),
    HandleTool(
        name="provide_task_input",
        description=(
            "Answer a task that is input_required: responses by the keys of its input_requests, "
            'each {"action": "accept"|"decline"|"cancel", "content": {}}.'
        ),
        properties={"task_ref": _TEXT, "responses": _OBJECT},
        required=("task_ref", "responses"),
        read_only=False,
        unlisted=("detail",),
    ),
    HandleTool(
        name="list_background_tasks",
        description="Your background tasks, newest first: finds a lost task_ref.",
        properties={"status": _TEXT, "limit": _COUNT},
        required=(),
        read_only=True,
    ),
)

HANDLE_NAMES = frozenset(tool.name for tool in HANDLE_TOOLS)


def hidden_handle_tools(listed: Literal["all", "status", "none"], *, anonymous: bool) -> frozenset[str]:
    """Which of them are not listed: by the setting `handle_tools`, and where callers cannot be told apart."""
    if listed == "none":
        return HANDLE_NAMES
    hidden = {"initiate_background_task"} if listed == "status" else set[str]()
    return frozenset(hidden | ({"list_background_tasks"} if anonymous else set()))
