"""The poll advisor: when callers are to ask again for a task, from its operation's history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from raincheck.domain.task import Task
from raincheck.polling.hints import Hints, Lookup
from raincheck.polling.program_hints import ProgramHints
from raincheck.polling.schedule import BackoffLadder
from raincheck.timing.clock import utc_now


class PollAdvisor:
    """Gives the hints of every surface.

    Args:
        ladder: The intervals of a task whose operation has no history.
        history: Looks up what is known of an operation; None: nothing is learned.
        clock: The wall clock.
    """

    def __init__(
        self, ladder: BackoffLadder, history: Lookup | None = None, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._hints = Hints(ladder, history)
        self._program_hints = ProgramHints(initial=ladder.initial, longest=ladder.longest, learned=self._hints.learned)
        self._clock = clock

    def for_program(self, task: Task, now: datetime | None = None) -> float | None:
        """When a program asks again, in seconds; None once there is nothing to wait for."""
        return self._program_hints.poll_after(task, now or self._clock())

    def for_model(self, task: Task, now: datetime | None = None) -> float | None:
        """When a model asks again, in seconds; None once there is nothing to wait for."""
        return self._hints.poll_after(task, now or self._clock())

    def eta(self, task: Task, now: datetime | None = None) -> float | None:
        """In how many seconds the task has probably ended, where the operation's history says."""
        return self._hints.eta(task, now or self._clock())
