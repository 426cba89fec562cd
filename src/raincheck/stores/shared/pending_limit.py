"""Whether there is room for one more pending task: one rule and one message for every store."""

from __future__ import annotations

from raincheck.errors import QueueFull
from raincheck.ports.task_store import PendingLimit


def check_pending_limit(pending_limit: PendingLimit, total: int, per_scope: int) -> None:
    """See that one more fits beside so many pending tasks.

    Raises:
        QueueFull: It does not.
    """
    if pending_limit.total is not None and total >= pending_limit.total:
        raise pending_limit_reached(pending_limit, "in_all")
    if pending_limit.per_scope is not None and per_scope >= pending_limit.per_scope:
        raise pending_limit_reached(pending_limit, "of_scope")


def pending_limit_reached(pending_limit: PendingLimit, limit: str) -> QueueFull:
    """The refusal of a task that would be one too many under that limit ("in_all" | "of_scope")."""
    if limit == "in_all":
        most, whose, setting = pending_limit.total, "", "max_pending"
    else:
        most, whose, setting = pending_limit.per_scope, " of this caller", "max_pending_per_scope"
    return QueueFull(
        f"{most} tasks{whose} are pending already ({setting}); nothing was queued. Try again later.",
        details={"limit": limit, setting: most},
    )
