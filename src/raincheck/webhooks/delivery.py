"""A delivery: pending or dead, and the record that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from raincheck.domain.task import Task
from raincheck.ports.records import Record
from raincheck.webhooks.payload import message_of

PENDING = "webhook"
"""The kind of the records of deliveries to be made."""

DEAD = "webhook-dead"
"""The kind of the records of deliveries that were given up."""

KEPT = timedelta(days=30)
"""How long a delivery is kept that is not made, and one that was given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A message on its way.

    Attributes:
        task_ref, operation_type: Whose end it tells.
        targets: Addresses, None for the operation's own webhook; more than one only until a dispatcher has parted them.
            The own one's address stays in the settings: it may hold a secret, and a corrected one counts for what is
            still to be delivered too.
        message: What is sent.
        since: From when the time until it is given up counts.
        attempts: How many were made.
        error: Why the last one failed; one line without secrets.
        died_at: When it was given up.
    """

    task_ref: str
    operation_type: str
    targets: tuple[str | None, ...] = field(repr=False)
    message: Mapping[str, Any] = field(repr=False)
    since: datetime
    attempts: int = 0
    error: str | None = None
    died_at: datetime | None = None

    @classmethod
    def of(cls, record: Record) -> Delivery:
        """What a record keeps."""
        value = record.value
        return cls(
            task_ref=value["task_ref"],
            operation_type=value["operation_type"],
            targets=tuple(value["targets"]),
            message=value["message"],
            since=datetime.fromisoformat(value["since"]),
            attempts=value["attempts"],
            error=value["error"],
            died_at=datetime.fromisoformat(value["died_at"]) if value["died_at"] else None,
        )

    @property
    def event(self) -> str:
        """The kind of end: "completed", "failed" or "cancelled"."""
        return str(self.message["type"]).partition(".")[2]

    def value(self) -> dict[str, Any]:
        """As a record keeps it."""
        return {
            "task_ref": self.task_ref,
            "operation_type": self.operation_type,
            "targets": list(self.targets),
            "message": dict(self.message),
            "since": self.since.isoformat(),
            "attempts": self.attempts,
            "error": self.error,
            "died_at": self.died_at.isoformat() if self.died_at else None,
        }

    def pending(self, key: str, *, version: int, due_at: datetime) -> Record:
        """The record of a delivery to be made."""
        return Record(
            kind=PENDING, key=key, value=self.value(), version=version, due_at=due_at, expires_at=self.since + KEPT
        )

    def dead(self, key: str, *, version: int) -> Record:
        """The record of a delivery that was given up."""
        assert self.died_at is not None
        return Record(kind=DEAD, key=key, value=self.value(), version=version, expires_at=self.died_at + KEPT)


def first_record(task: Task) -> Record | None:
    """The record of a task that has just ended; None where its end is not reported."""
    targets = (*((None,) if task.own_webhook else ()), *((task.callback_url,) if task.callback_url else ()))
    if not targets or not task.terminal:
        return None
    at = task.settled_at or task.updated_at
    delivery = Delivery(
        task_ref=task.task_ref,
        operation_type=task.operation_type,
        targets=targets,
        message=message_of(task),
        since=at,
    )
    return delivery.pending(task.task_ref, version=1, due_at=at)
