"""Functions that another process can import."""

from __future__ import annotations

from typing import Any

from raincheck.errors import OperationFailed
from raincheck.operations.context import LARGEST_CHECKPOINT, TaskContext


def save_and_tell(context: TaskContext) -> dict[str, Any]:
    """Save, and tell what was saved."""
    context.save_sync({"step": 1})
    try:
        context.save_sync("x" * LARGEST_CHECKPOINT)
        refused = ""
    except OperationFailed as error:
        refused = error.message
    return {"checkpoint": context.checkpoint, "url": context.callback_url_sync(), "refused": refused}
