"""When a program asks for a task again: often, since a question costs it no tokens, and seldom enough to be answered.

The pause is a tenth of the age of the task's attempt: the end is noticed within a tenth of the run, and the number of
questions grows with the logarithm of its length. What is known of the end, by progress or by the operation's history,
makes a pause shorter where it would reach beyond that end, and never longer: a schedule that saves questions, as models
follow it, would make programs late (docs/hints.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from raincheck.domain.task import Task, TaskStatus

_SHARE = 0.1
_FINEST = 0.03
_SLACK = 1.01
"""How far beyond the expected end a look aims: one just before it is in vain."""


class ProgramHints:
    """Gives the hints of programs: `pollIntervalMs`, and `poll_after_seconds` of the full form.

    Args:
        initial: The shortest, in seconds.
        longest: The longest, in seconds.
        learned: When the operation's history says to look, in seconds from now; None where it says nothing.
    """

    def __init__(self, *, initial: float, longest: float, learned: Callable[[Task, datetime], float | None]) -> None:
        self._initial = initial
        self._longest = longest
        self._learned = learned

    def poll_after(self, task: Task, now: datetime) -> float | None:
        """When to ask again, in seconds; None once there is nothing to wait for.

        Within the bounds of all hints it is at most a tenth of the time for which the attempt has run, or for which the
        task has waited for one.
        """
        if task.terminal:
            return None
        age = max(0.0, (now - (task.started_at or task.created_at)).total_seconds())
        pause, left = min(self._longest, age * _SHARE), _expected_left(task, age)
        if left is not None and left < 2 * pause:
            # The look after the next one, or the next one, is at the expected end.
            pause = max(age * _FINEST, left / 2 if left > pause else left)
        learned = self._learned(task, now)
        if learned is not None:
            pause = min(pause, learned)
        return round(min(self._longest, max(self._initial, pause)), 3)


def _expected_left(task: Task, age: float) -> float | None:
    """How long the attempt still runs if it goes on as it did up to its last progress; None where it tells none."""
    fraction = None if task.progress is None else task.progress.fraction
    if not fraction or task.status is not TaskStatus.PROCESSING or task.started_at is None:
        return None
    took = (task.updated_at - task.started_at).total_seconds()
    # The progress of an attempt before this one says nothing of it.
    return max(0.0, took / fraction * _SLACK - age) if took > 0 else None
