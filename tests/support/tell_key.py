"""An operation for a process of its own, in a module whose name no other module of the tests has."""

from __future__ import annotations

from raincheck.operations.context import TaskContext

__all__ = ["tell_key"]


def tell_key(context: TaskContext) -> str:
    """The key that it was handed."""
    return context.idempotency_key
