"""The identity of a call: which calls are the same piece of work, and the bounds on what a caller says of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raincheck.domain.caller import Caller
from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import InvalidParameters
from raincheck.operations.argument_repairs import as_declared
from raincheck.operations.operation import Operation

_LONGEST_KEY = 255


def is_another_call(stored: Task, task: Task) -> bool:
    """Whether the task that holds the key of this tool use, or of equal calls, is not what this call is to get."""
    # A cancelled one may be ours, of a call whose answer was lost: sent again, the call is wanted.
    return stored.fingerprint != task.fingerprint or stored.status is TaskStatus.CANCELLED


def fingerprint_of(
    operation: Operation, arguments: Mapping[str, Any], callback: str | None, caller: Caller | None
) -> str:
    """What two calls have in common that are the same piece of work.

    Args:
        operation: The operation.
        arguments: Its checked parameters.
        callback: Where this call wants to be told, beside the operation's own webhook.
        caller: Whose work alone it is; None: any caller's of the scope.
    """
    # A caller that sends "5" and then 5 asks for the same.
    alike = as_declared(operation.executor.parameters_schema, arguments)
    # Who asks to be told elsewhere asks for something else: it must not be answered with a task that sends no message.
    asked: list[Any] = [operation.operation_type, alike, *([callback] if callback else [])]
    # Two callers may have one scope and see different things all the same: they never share a task.
    if caller is not None and (who := replace(caller, client_name="").whole()):
        asked.append(who)
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_key(key: str | None) -> None:
    """Refuse an idempotency key beyond its bounds.

    Raises:
        InvalidParameters: It is empty, too long or not printable.
    """
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
        raise InvalidParameters(f"idempotency_key must be 1 to {_LONGEST_KEY} printable characters.")


def checked_wait(seconds: float | None, ceiling: float) -> float | None:
    """A caller's `max_wait_seconds` within the operation's ceiling.

    Raises:
        InvalidParameters: It is not above 0, not finite, or above the ceiling.
    """
    if seconds is None:
        return None
    if not (math.isfinite(seconds) and 0 < seconds <= ceiling):
        raise InvalidParameters(
            f"max_wait_seconds must be above 0 and at most {ceiling:g} for this operation; it was {seconds:g}.",
            details={"max_wait_ceiling_seconds": ceiling},
        )
    return float(seconds)
