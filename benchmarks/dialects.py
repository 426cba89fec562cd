"""How a client says submit and status to each contestant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from benchmarks.wire import Call

__all__ = ["DIALECTS", "Dialect", "State"]


class State(NamedTuple):
    """What a status answer says: whether the task is over, its value if it completed, and when to ask again."""

    status: str
    terminal: bool
    value: Any
    ask_again_after: float


class Dialect(Protocol):
    """The two calls of one contestant, and how their answers read."""

    def submit(self, operation: str, parameters: Mapping[str, Any]) -> Call: ...
    def ref(self, result: Mapping[str, Any]) -> str: ...
    def status(self, ref: str, wait_seconds: float = 0) -> Call: ...
    def state(self, result: Mapping[str, Any]) -> State: ...

    @property
    def holds(self) -> bool:
        """Whether a status call can wait for the task on the server."""
        ...


class Floor:
    """The official SDK alone: both calls are the same no-op tool."""

    holds = False

    def submit(self, operation: str, parameters: Mapping[str, Any]) -> Call:
        return Call(method="tools/call", name="noop", params={"name": "noop", "arguments": {}})

    def ref(self, result: Mapping[str, Any]) -> str:
        assert result["content"][0]["text"] == "done", result
        return "done"

    def status(self, ref: str, wait_seconds: float = 0) -> Call:
        return self.submit("noop", {})

    def state(self, result: Mapping[str, Any]) -> State:
        return State("completed", True, self.ref(result), 0.0)


class TasksExtension:
    """The tasks extension (SEP-2663), as the rival speaks it."""

    holds = False

    def submit(self, operation: str, parameters: Mapping[str, Any]) -> Call:
        return Call(
            method="tools/call",
            name=operation,
            params={"name": operation, "arguments": dict(parameters)},
            declares_tasks=True,
        )

    def ref(self, result: Mapping[str, Any]) -> str:
        return result["taskId"]

    def status(self, ref: str, wait_seconds: float = 0) -> Call:
        return Call(method="tasks/get", name=ref, params={"taskId": ref}, declares_tasks=True)

    def state(self, result: Mapping[str, Any]) -> State:
        status = result["status"]
        terminal = status in {"completed", "failed", "cancelled"}
        value: Any = None
        if status == "completed":
            structured: dict[str, Any] = result["result"].get("structuredContent") or {}
            value = structured.get("result")
        return State(status, terminal, value, result.get("pollIntervalMs", 1000) / 1000)


class HandleTools:
    """raincheck's handle tools: a ticket, then `resolve_task_status`, which can hold the call until there is news."""

    holds = True

    def submit(self, operation: str, parameters: Mapping[str, Any]) -> Call:
        arguments = {"operation_type": operation, "parameters": dict(parameters)}
        name = "initiate_background_task"
        return Call(method="tools/call", name=name, params={"name": name, "arguments": arguments})

    def ref(self, result: Mapping[str, Any]) -> str:
        return result["structuredContent"]["task_ref"]

    def status(self, ref: str, wait_seconds: float = 0) -> Call:
        arguments: dict[str, Any] = {"task_ref": ref}
        arguments["wait_seconds"] = wait_seconds
        name = "resolve_task_status"
        return Call(method="tools/call", name=name, params={"name": name, "arguments": arguments})

    def state(self, result: Mapping[str, Any]) -> State:
        answer = result["structuredContent"]
        if result.get("isError"):
            return State(answer["error"]["code"], True, None, 0.0)
        terminal = answer["status"] in {"completed", "failed", "cancelled"}
        return State(answer["status"], terminal, answer.get("result"), answer.get("poll_after_seconds") or 0.0)


DIALECTS: dict[str, Dialect] = {"floor": Floor(), "tasks-extension": TasksExtension(), "handle-tools": HandleTools()}
