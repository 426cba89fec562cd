"""Every answer of the tasks extension, held against its JSON Schema and against what real clients break on.

`tasks-extension.schema.json` is the schema of the extension's own repository (modelcontextprotocol/ext-tasks,
`schema/draft/schema.json`), unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["check", "check_answer"]

_RESULTS = {"tasks/get": "GetTaskResult", "tasks/update": "UpdateTaskResult", "tasks/cancel": "CancelTaskResult"}
_OF_STATUS = {"completed": "result", "failed": "error", "input_required": "inputRequests"}
_NEVER_IN_A_HANDLE = {"task", "result", "error", "inputRequests", "requestState", "ttl", "pollInterval"}


@cache
def _validator(name: str) -> Draft202012Validator:
    whole: dict[str, Any] = json.loads(Path(__file__).with_name("tasks-extension.schema.json").read_text())
    assert name in whole["$defs"]
    return Draft202012Validator({**whole, "$ref": f"#/$defs/{name}"})


def check(name: str, value: Mapping[str, Any]) -> None:
    """Assert that the value has that shape of the schema."""
    problems = [f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(value)]  # pyright: ignore
    assert not problems, f"no {name}: {problems[:3]} in {json.dumps(value)[:800]}"


def check_answer(request: Mapping[str, Any], message: Mapping[str, Any]) -> None:
    """Assert that a JSON-RPC message that came for the request is well-formed, as far as it is of the extension."""
    assert message["jsonrpc"] == "2.0"
    if message.get("method") == "notifications/tasks":
        check("TaskStatusNotification", message)
        _check_whole_task({key: value for key, value in message["params"].items() if key != "_meta"})
    elif message.get("method") == "notifications/subscriptions/acknowledged":
        check("TaskSubscriptionAcknowledgedNotifications", message["params"]["notifications"])
    if "result" not in message:
        return
    result: dict[str, Any] = message["result"]
    if (shape := _RESULTS.get(request["method"])) is not None:
        check(shape, result)
    if request["method"] == "tasks/get":
        _check_whole_task({key: value for key, value in result.items() if key not in ("resultType", "_meta")})
    elif result.get("resultType") == "task":
        check("CreateTaskResult", result)
        assert not _NEVER_IN_A_HANDLE & set(result), result
        _check_task(result)


def _check_whole_task(task: Mapping[str, Any]) -> None:
    check("DetailedTask", task)
    belongs = _OF_STATUS.get(task["status"])
    assert set(_OF_STATUS.values()) & set(task) == ({belongs} if belongs else set()), task
    if task["status"] == "failed":
        assert task["statusMessage"]
        assert set(task["error"]) <= {"code", "message", "data"}
    _check_task(task)


def _check_task(task: Mapping[str, Any]) -> None:
    """What the schema leaves open: nothing is null but `ttlMs`, times carry an offset, the hint is above 0."""
    assert [key for key, value in task.items() if value is None and key != "ttlMs"] == []
    for key in ("createdAt", "lastUpdatedAt"):
        assert datetime.fromisoformat(task[key]).tzinfo is not None
    assert task.get("pollIntervalMs", 1) > 0
    if task["status"] in ("completed", "failed", "cancelled"):
        assert "pollIntervalMs" not in task
