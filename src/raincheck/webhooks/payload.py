"""The payload of a webhook: the envelope of Standard Webhooks around the task's status.

No arguments, and nothing that would not fit into a record: a large result is replaced by a preview and its resource
link.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from raincheck.domain.redaction import redact_outcome
from raincheck.domain.result_body import body_of as result_body
from raincheck.domain.result_body import public_preview
from raincheck.domain.task import Task
from raincheck.domain.task_json import status_of, timestamp
from raincheck.domain.unicode_text import well_formed_json
from raincheck.ports.records import LARGEST_RECORD

LARGEST_RESULT = 64 * 1024
"""The largest result that is told whole, in bytes of JSON (ASCII)."""

_SHORTENED_CHARACTERS = 1000
# Sealed (`raincheck.encryption.task_store`) a record is a third larger; beside the message it holds an address and a
# last error.
_LARGEST_MESSAGE = LARGEST_RECORD * 5 // 8


def message_id(task_ref: str) -> str:
    """`webhook-id`: the same in every attempt, so that a receiver knows what it has had."""
    return f"msg_{task_ref}"


def message_of(task: Task) -> dict[str, Any]:
    """The message about a terminal task: nothing of its parameters, and no secret member of its result."""
    shown = task if task.outcome is None else replace(task, outcome=redact_outcome(task.outcome))
    status = status_of(shown, poll_after_seconds=None)
    if shown.outcome is not None and len(body_of(status["result"])) > LARGEST_RESULT:
        # The settings may show more to callers (`max_inline_bytes`) than fits into a record.
        body = result_body(shown.outcome)
        preview = {} if body is None else public_preview(body.large(task.task_ref, None))
        if shown.outcome.secret:
            # They would be those of what is shown here.
            preview = {key: value for key, value in preview.items() if key not in ("bytes", "sha256")}
        status["result"] = preview
    message = {"type": f"task.{task.status}", "timestamp": timestamp(task.settled_at or task.updated_at)}
    if len(body_of(status)) > _LARGEST_MESSAGE:
        # Only an operation's own words can be that long.
        for part in (status["error"], status["progress"]):
            if part is not None:
                part["message"] = (part["message"] or "")[:_SHORTENED_CHARACTERS]
        if status["error"] is not None:
            status["error"]["details"] = {}
    return {**message, "data": status}


def body_of(value: Any) -> bytes:
    """A JSON value as it is sent: ASCII, so that an odd character cannot break it."""
    return json.dumps(well_formed_json(value), separators=(",", ":")).encode("ascii")
