"""The wait for one task, over either protocol: asks, reports progress, has questions answered, until it is settled."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Awaitable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from raincheck.client.errors import InputNeeded, TaskWasCancelled, WaitTimedOut
from raincheck.client.models import InputCallback, ProgressCallback, TaskHandle, TaskView
from raincheck.client.policy import Pace, PollingPolicy
from raincheck.domain.task import InputRequest, TaskStatus
from raincheck.errors import TaskNotFound

logger = logging.getLogger(__name__)

_GRACE = 5.0

_T = TypeVar("_T")
_Outcome = TypeVar("_Outcome")
_Outcome_co = TypeVar("_Outcome_co", covariant=True)


async def settled(given: Awaitable[_T] | _T) -> _T:
    """What a callback gave, awaited where it is awaitable."""
    if inspect.isawaitable(given):
        return await given
    return given


class TaskProtocol(Protocol[_Outcome_co]):
    """One task over the calls of one protocol.

    Attributes:
        handle: The task.
    """

    handle: TaskHandle

    async def look(self, pace: Pace) -> tuple[TaskView, bool]:
        """The task, and whether the server held the answer, so that the next question may follow at once."""
        ...

    async def provide(self, responses: Mapping[str, Mapping[str, Any]]) -> bool:
        """Answer questions by their keys; whether the task is known to have gone on."""
        ...

    def outcome(self, view: TaskView) -> _Outcome_co:
        """The result of a task that is completed or failed, last seen as `view`; a failure is raised."""
        ...


class Wait(Generic[_Outcome]):
    """The wait for one task.

    Args:
        task: Reaches it.
        policy: The pace and the bounds.
        on_progress, on_input: See `TaskPoller.run`.
    """

    def __init__(
        self,
        task: TaskProtocol[_Outcome],
        policy: PollingPolicy,
        *,
        on_progress: ProgressCallback | None,
        on_input: InputCallback | None,
    ) -> None:
        self._task = task
        self._pace = Pace(policy)
        self._on_progress = on_progress
        self._on_input = on_input
        self._reported: tuple[Any, ...] | None = None
        self._given: dict[str, Mapping[str, Any]] = {}
        self._view: TaskView | None = None

    async def outcome(self, created: TaskView | None = None, *, pause: float | None = None) -> _Outcome:
        """The outcome once it is there.

        Args:
            created: The task as the server accepted it, where that is a view of it.
            pause: When the server wants to be asked first, where it is not to be asked at once.

        Raises:
            RaincheckError: See `TaskPoller.run`.
        """
        try:
            if pause is not None:
                await asyncio.sleep(self._pace.pause(pause))
            if created is not None:
                await self._see(created)
                await self._rest(created)
            while True:
                view, held = await self._look()
                await self._see(view)
                if view.terminal:
                    return self._ended(view)
                answered = await self._answer(view)
                self._check_bounds()
                if not held and not answered:
                    await self._rest(view)
        except BaseException as error:
            left_running(error, self._task.handle, self._view)
            raise

    async def _see(self, view: TaskView) -> None:
        self._view = view
        now = (view.status, view.progress)
        if self._on_progress is not None and now != self._reported:
            self._reported = now
            await settled(self._on_progress(view))

    async def _rest(self, view: TaskView) -> None:
        if not view.terminal:
            self._check_bounds()
            await asyncio.sleep(self._pace.pause(view.poll_after_seconds))
            self._check_bounds()

    async def _look(self) -> tuple[TaskView, bool]:
        # Without a bound `remaining` is infinite, which asyncio.timeout does not take; a little grace for the way.
        remaining = self._pace.remaining
        limit = asyncio.timeout(None if remaining == math.inf else remaining + _GRACE)
        try:
            async with limit:
                return await self._task.look(self._pace)
        except TimeoutError:
            if limit.expired():
                self._check_bounds()
            raise

    async def _answer(self, view: TaskView) -> bool:
        """Have each question answered once; one that is shown again gets the same answer again."""
        if view.status is not TaskStatus.INPUT_REQUIRED or not view.requests:
            return False
        for request in view.requests:
            if request.key not in self._given:
                self._given[request.key] = await self._ask(request, view)
        went_on = await self._task.provide({request.key: self._given[request.key] for request in view.requests})
        self._pace.restart()
        return went_on

    async def _ask(self, request: InputRequest, view: TaskView) -> Mapping[str, Any]:
        response = None if self._on_input is None else await settled(self._on_input(request))
        if response is None:
            message = f"Task {view.handle.task_ref} asks something and waits for the answer: {_question(request)}"
            raise InputNeeded(message, handle=view.handle, requests=view.requests)
        return response

    def _check_bounds(self) -> None:
        bound = self._pace.used_up
        if bound is not None:
            task = self._task.handle
            message = f"Task {task.task_ref} is not settled after {bound}; it goes on and can be resumed."
            raise WaitTimedOut(message, handle=task, view=self._view)

    def _ended(self, view: TaskView) -> _Outcome:
        if view.status is TaskStatus.CANCELLED and view.error is None:
            raise TaskWasCancelled(f"Task {view.handle.task_ref} was cancelled.", handle=view.handle)
        return self._task.outcome(view)


def left_running(error: BaseException, handle: TaskHandle, view: TaskView | None) -> None:
    """Say, on an error that ends a wait early, that the task goes on."""
    if (view is not None and view.terminal) or isinstance(error, WaitTimedOut | TaskNotFound):
        return
    note = f"The wait for task {handle.task_ref} ended; the task itself was not cancelled and can be resumed."
    error.add_note(note)
    if isinstance(error, asyncio.CancelledError):
        logger.info("a wait was cancelled; its task goes on", extra={"task_ref": handle.task_ref})


def _question(request: InputRequest) -> str:
    message = request.params.get("message")
    return message if isinstance(message, str) else request.method
