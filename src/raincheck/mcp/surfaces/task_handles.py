"""The tasks as the two task protocols show them, each with the interval at which its client polls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from raincheck.domain.task import Task
from raincheck.mcp.wire import task_messages
from raincheck.polling.advisor import PollAdvisor
from raincheck.polling.early_polls import Pacing
from raincheck.timing.clock import utc_now


class TaskHandles:
    """Makes the tasks of the tasks extension and of 2025-11-25, and remembers the intervals that it gave.

    Args:
        advisor: Says when clients ask again.
        clock: The wall clock.
    """

    def __init__(self, advisor: PollAdvisor, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._advisor = advisor
        self._clock = clock
        self._pacing = Pacing()

    def created(self, task: Task) -> dict[str, Any]:
        """The extension's handle of a new task."""
        hint = self._advisor.for_program(task)
        self._pacing.answered(task.task_ref, hint)
        return task_messages.created_task(task, now=self._clock(), poll_after_seconds=hint)

    def detailed(self, task: Task) -> dict[str, Any]:
        """The extension's whole task."""
        hint = self._advisor.for_program(task)
        return task_messages.detailed_task(task, now=self._clock(), poll_after_seconds=hint)

    def core(self, task: Task) -> dict[str, Any]:
        """The task of 2025-11-25."""
        ttl = task_messages.time_to_live(task, self._clock())
        return task_messages.core_task(task, ttl=ttl, poll_after_seconds=self._advisor.for_program(task))

    def polled(self, task: Task, *, core: bool) -> dict[str, Any]:
        """The answer of `tasks/get`, of 2025-11-25 (`core`) or the extension."""
        self._pacing.answered(task.task_ref, self._advisor.for_program(task))
        shown = self.core(task) if core else {"resultType": "complete", **self.detailed(task)}
        return task_messages.with_eta(shown, self._advisor.eta(task))

    def early_by(self, task_ref: str) -> float:
        """How many seconds before its interval is over the client polls now."""
        return self._pacing.early_by(task_ref)
