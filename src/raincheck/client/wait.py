"""One wait for one task by the handle tools: asks, reports progress, has questions answered, until it is settled."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from raincheck.client.errors import InputNeeded, TaskWasCancelled, WaitTimedOut, error_from
from raincheck.client.handle_calls import HandleCalls, NotHeld
from raincheck.client.models import InputCallback, ProgressCallback, TaskHandle, TaskResult, TaskView
from raincheck.client.policy import LONGEST_HOLD, Pace, PollingPolicy
from raincheck.domain.task import InputRequest, TaskStatus
from raincheck.errors import TaskNotFound

__all__ = ["Changes", "Questions", "Wait", "left_running", "settled"]

logger = logging.getLogger(__name__)

# A server that knows its client as impatient holds for less than it was asked to: what lasted this long was held.
_HELD_SECONDS = 0.8
_HELD_SHARE = 0.8
# Progress does not end a held answer. Where it is watched it is looked for so often.
_WATCHED_SECONDS = 2.0
_GRACE = 5.0

_T = TypeVar("_T")


async def settled(given: Awaitable[_T] | _T) -> _T:
    """What a callback gave, awaited where it is awaitable."""
    if inspect.isawaitable(given):
        return await given
    return given


class Changes:
    """Tells a progress callback what it has not been told yet."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._told: tuple[Any, ...] | None = None

    async def tell(self, view: TaskView) -> None:
        """Call back if status or progress has changed."""
        now = (view.status, view.progress)
        if self._callback is not None and now != self._told:
            self._told = now
            await settled(self._callback(view))


class Questions:
    """Has each question answered once, however often the server shows it."""

    def __init__(self, callback: InputCallback | None) -> None:
        self._callback = callback
        self._given: dict[str, Mapping[str, Any]] = {}

    async def answer(self, view: TaskView) -> dict[str, Mapping[str, Any]]:
        """The answers to hand in. A question that is shown again although it was answered gets the same answer again.

        Raises:
            InputNeeded: There is a question without an answer.
        """
        for request in view.requests:
            if request.key not in self._given:
                self._given[request.key] = await self._ask(request, view)
        return {request.key: self._given[request.key] for request in view.requests}

    async def _ask(self, request: InputRequest, view: TaskView) -> Mapping[str, Any]:
        response = None if self._callback is None else await settled(self._callback(request))
        if response is None:
            message = f"Task {view.handle.task_ref} asks something and waits for the answer: {_question(request)}"
            raise InputNeeded(message, handle=view.handle, requests=view.requests)
        return response


class Wait:
    """The wait for one task.

    Args:
        calls: Reaches the server.
        handle: The task.
        policy: The pace and the bounds.
        on_progress, on_input: See `TaskPoller.run`.
    """

    def __init__(
        self,
        calls: HandleCalls,
        handle: TaskHandle,
        policy: PollingPolicy,
        *,
        on_progress: ProgressCallback | None,
        on_input: InputCallback | None,
    ) -> None:
        self._calls = calls
        self._handle = handle
        self._pace = Pace(policy)
        self._hold = min(policy.hold_seconds, LONGEST_HOLD)
        self._can_be_held = True
        self._changes = Changes(on_progress)
        self._questions = Questions(on_input)
        self._watched = on_progress is not None
        self._view: TaskView | None = None

    async def result(self, hint: float | None) -> TaskResult:
        """The result once it is there; `hint`: when the server wants to be asked first.

        Raises:
            RaincheckError: See `TaskPoller.run`.
        """
        try:
            if not self._hold and hint is not None:
                await asyncio.sleep(self._pace.pause(hint))
            while True:
                view, held = await self._look(hint)
                self._view = view
                hint = view.poll_after_seconds
                await self._changes.tell(view)
                if view.terminal:
                    return _ended(view)
                answered = await self._answer(view)
                self._check_bounds()
                if not held and not answered:
                    await asyncio.sleep(self._pace.pause(hint))
                    self._check_bounds()
        except BaseException as error:
            left_running(error, self._handle, self._view)
            raise

    async def _look(self, hint: float | None) -> tuple[TaskView, bool]:
        """The task, and whether the server held the answer."""
        hold = self._hold
        if hold and self._watched:
            hold = min(hold, _WATCHED_SECONDS, self._pace.interval(hint))
        hold = min(hold, self._pace.remaining)
        self._pace.attempts += 1
        started = time.monotonic()
        try:
            view = await self._bounded(hold if self._can_be_held else None)
        except NotHeld:
            logger.info("the server does not hold its answers: asking from time to time")
            self._hold, self._can_be_held = 0.0, False
            return await self._bounded(None), False
        took = time.monotonic() - started
        return view, hold > 0 and took >= min(_HELD_SECONDS, hold * _HELD_SHARE)

    async def _bounded(self, hold: float | None) -> TaskView:
        # Without a bound `remaining` is infinite, which asyncio.timeout does not take; a little grace for the way.
        remaining = self._pace.remaining
        limit = asyncio.timeout(None if remaining == math.inf else remaining + _GRACE)
        try:
            async with limit:
                return await self._calls.status(self._handle, hold=hold)
        except TimeoutError:
            if limit.expired():
                self._check_bounds()
            raise

    async def _answer(self, view: TaskView) -> bool:
        if view.status is not TaskStatus.INPUT_REQUIRED:
            return False
        responses = await self._questions.answer(view)
        if not responses:
            return False
        after = await self._calls.provide(self._handle, responses)
        self._pace.restart()
        return after.status is not TaskStatus.INPUT_REQUIRED

    def _check_bounds(self) -> None:
        bound = self._pace.used_up
        if bound is not None:
            message = f"Task {self._handle.task_ref} is not settled after {bound}; it goes on and can be resumed."
            raise WaitTimedOut(message, handle=self._handle, view=self._view)


def left_running(error: BaseException, handle: TaskHandle, view: TaskView | None) -> None:
    """Say, on an error that ends a wait early, that the task goes on."""
    if (view is not None and view.terminal) or isinstance(error, WaitTimedOut | TaskNotFound):
        return
    note = f"The wait for task {handle.task_ref} ended; the task itself was not cancelled and can be resumed."
    error.add_note(note)
    if isinstance(error, asyncio.CancelledError):
        logger.info("a wait was cancelled; its task goes on", extra={"task_ref": handle.task_ref})


def _ended(view: TaskView) -> TaskResult:
    if view.status is TaskStatus.COMPLETED:
        return TaskResult.of_value(view.result, view.handle)
    if view.error is not None:
        raise error_from(view.error.public(), failed_task=view.handle)
    raise TaskWasCancelled(f"Task {view.handle.task_ref} was cancelled.", handle=view.handle)


def _question(request: InputRequest) -> str:
    message = request.params.get("message")
    return message if isinstance(message, str) else request.method
