"""Whether there is room for one more pending task: one rule and one message for every store."""

from __future__ import annotations

from raincheck.errors import QueueFull
from raincheck.ports.task_store import Room


def check_room(room: Room, in_all: int, of_scope: int) -> None:
    """See that one more fits beside so many pending tasks.

    Raises:
        QueueFull: It does not.
    """
    if room.in_all is not None and in_all >= room.in_all:
        raise no_room(room, "in_all")
    if room.of_scope is not None and of_scope >= room.of_scope:
        raise no_room(room, "of_scope")


def no_room(room: Room, limit: str) -> QueueFull:
    """The refusal of a task that would be one too many under that limit ("in_all" | "of_scope")."""
    if limit == "in_all":
        most, whose, setting = room.in_all, "", "max_pending"
    else:
        most, whose, setting = room.of_scope, " of this caller", "max_pending_per_scope"
    return QueueFull(
        f"{most} tasks{whose} are pending already ({setting}); nothing was queued. Try again later.",
        details={"limit": limit, setting: most},
    )
