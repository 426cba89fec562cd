"""Asking the user through the host while a call waits, so that no model answers in their place."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Any, Literal, NamedTuple

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from raincheck.domain.task import InputRequest, Task, TaskStatus
from raincheck.errors import InvalidParameters, RaincheckError
from raincheck.mcp.auth.scopes import scope_of
from raincheck.mcp.surfaces.client_elicitation import (
    ELICITATION,
    answered_round,
    asking_round,
    can_be_sent,
    declared,
    is_dismissal,
    put_to_client,
)
from raincheck.mcp.surfaces.holds import Holds
from raincheck.mcp.wire.clients import client_of
from raincheck.polling.patience import SHARE, Patience
from raincheck.tasks.registry import Registry

logger = logging.getLogger(__name__)

Answerer = Literal["asked", "user", "elsewhere", "anyone"]
"""Who answers what a task asks.

`asked`: the user, whom the host asks just now; `user`: the user alone, whom the host would ask; `elsewhere`: the user
alone, whom this client cannot ask; `anyone`: a model too.
"""

_LONGEST_DIALOG = 300.0
_UNKNOWN_PATIENCE = 50.0
"""The SDKs' clients wait for 60 s unless they are told otherwise."""

_ROUND_SECONDS = 120.0
"""So long a question that was put in an answer is taken to be before the user: nothing tells that it is not."""

_DISMISSED_SECONDS = 3600.0
"""So long a question that was dismissed is not put to a host again."""


_MOST_DIALOGS = 100
"""So many dialogs of one scope are open at once; further questions stay open for other calls."""

_MOST_REMEMBERED = 10_000
"""Of so many questions it is known that they were put or dismissed; the oldest may be put again."""


class _Dialog(NamedTuple):
    """The questions of one task, put to one client in turn.

    Attributes:
        running: Puts them.
        asked: The keys of those that were put.
        scope: Whose client it is.
    """

    running: asyncio.Task[None]
    asked: set[str]
    scope: str


class HostElicitation:
    """Has users asked by their hosts.

    A question is before a user once, however often its task is polled. Two processes may both ask; the first answer
    wins. One that is cancelled (the dialog was closed, or the host has no user) stays open for a model, where one may
    answer; a decline is an answer.

    Args:
        registry: The use cases.
        holds: Waits for the tasks.
        patience: How long clients wait for an answer.
    """

    def __init__(self, registry: Registry, holds: Holds, patience: Patience) -> None:
        self._registry = registry
        self._holds = holds
        self._patience = patience
        self._dialogs: dict[tuple[object | None, str], _Dialog] = {}
        self._others: Counter[tuple[object | None, str]] = Counter()
        self._rounds: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._dismissed: dict[tuple[str, str], asyncio.TimerHandle] = {}

    async def wait(self, ctx: ServerRequestContext[Any, Any], task_ref: str, seconds: float) -> Task:
        """The task once it is terminal or asks what the client is not asked here, or when `seconds` are over.

        The time for which a user thinks does not count; it is bounded by the client's patience. When that is over the
        dialog stays open, and its answer is taken.

        Raises:
            TaskNotFound: As in `Registry.get`.
        """
        now = asyncio.get_running_loop().time
        began, held, tried = now(), 0.0, set[str]()
        task = await self._holds.wait(ctx, task_ref, seconds)
        until: float | None = None
        while task.status is TaskStatus.INPUT_REQUIRED:
            held = now() - began if until is None else held
            if until is None:
                until = began + max(seconds, await self._longest(ctx))
            dialog = self._dialog(ctx, task, tried)
            if dialog is not None:
                await asyncio.wait({dialog.running}, timeout=until - now())
                tried |= dialog.asked
                if not dialog.running.done():
                    return await self._registry.get(task_ref, scope=scope_of(ctx))
                left = min(seconds - held, until - now())
                again = now()
                task = await self._holds.wait(ctx, task_ref, left)
                held += now() - again
            elif self._only_waiting_helps(ctx, task, tried) and held < seconds and now() < until:
                again = now()
                left = min(seconds - held, until - now())
                task = await self._registry.wait_for_change(task, scope=scope_of(ctx), seconds=left)
                held += now() - again
            else:
                break
        return task

    async def ask_client(self, ctx: ServerRequestContext[Any, Any], task: Task) -> Task:
        """Send the task's questions to the client on this open stream (B5) and hand its answers in; the task then.

        A client that cannot be asked so is not: then it is the task after its next change, by any answer. So is a
        question that another one has answered, or that was withdrawn.

        Raises:
            MCPError: The client refused; the question stays open.
        """
        scope = scope_of(ctx)
        questions = [each for each in task.outstanding if can_be_sent(ctx, each)]
        if not questions:
            return await self._registry.wait_for_change(task, scope=scope, seconds=60.0)
        with self.asked_by_another_call(ctx, task.task_ref):
            await put_to_client(self._registry, ctx, task, questions, scope)
        return await self._registry.get(task.task_ref, scope=scope)

    async def _longest(self, ctx: ServerRequestContext[Any, Any]) -> float:
        patience = await self._patience.seconds(client_of(ctx), scope_of(ctx))
        return _UNKNOWN_PATIENCE if patience is None else min(_LONGEST_DIALOG, patience * SHARE)

    def _only_waiting_helps(self, ctx: ServerRequestContext[Any, Any], task: Task, tried: Collection[str]) -> bool:
        answerer = self.answerer(ctx, task)
        return answerer in ("asked", "elsewhere") or (answerer == "user" and bool(tried))

    # By requests on the call's stream.

    def _dialog(self, ctx: ServerRequestContext[Any, Any], task: Task, tried: Collection[str]) -> _Dialog | None:
        """The dialog in which the client is asked what the task asks, opened where it is not."""
        place = (client_of(ctx).session, task.task_ref)
        if place in self._others:
            return None
        dialog = self._dialogs.get(place)
        if dialog is not None and dialog.running.done():
            dialog = None
        if dialog is None and any(self._to_be_sent(ctx, task, each, tried) for each in task.outstanding):
            asked, scope = set[str](), scope_of(ctx)
            if sum(each.scope == scope for each in self._dialogs.values()) >= _MOST_DIALOGS:
                return None
            # It may outlive the call.
            talking = self._talk(asked, ctx, task, scope)
            running = asyncio.create_task(talking, context=Context(), name="raincheck-dialog")
            dialog = self._dialogs[place] = _Dialog(running, asked, scope)
            running.add_done_callback(lambda _: self._dialogs.pop(place, None))
        return dialog

    def _to_be_sent(
        self, ctx: ServerRequestContext[Any, Any], task: Task, question: InputRequest, asked: Collection[str]
    ) -> bool:
        open_here = question.key not in asked and (task.task_ref, question.key) not in self._dismissed
        return open_here and can_be_sent(ctx, question)

    def _dismiss(self, task_ref: str, key: str) -> None:
        _remember(self._dismissed, (task_ref, key), _DISMISSED_SECONDS)

    async def _talk(self, asked: set[str], ctx: ServerRequestContext[Any, Any], task: Task, scope: str) -> None:
        def next_of(task: Task) -> InputRequest | None:
            return next((each for each in task.outstanding if self._to_be_sent(ctx, task, each, asked)), None)

        dismissed = partial(self._dismiss, task.task_ref) if self._models_may_answer(task) else None

        while (question := next_of(task)) is not None:
            asked.add(question.key)
            try:
                await put_to_client(self._registry, ctx, task, [question], scope, dismissed=dismissed)
                task = await self._registry.get(task.task_ref, scope=scope)
            except (MCPError, RaincheckError) as error:
                # The question stays open for others who may answer it.
                logger.info("the client was not asked: %s", error, extra={"task_ref": task.task_ref})
            except Exception:  # the boundary of a loop of its own: an answer of the client's that is none
                logger.exception("asking the client failed", extra={"task_ref": task.task_ref})

    @contextmanager
    def asked_by_another_call(self, ctx: ServerRequestContext[Any, Any], task_ref: str) -> Generator[None]:
        """While the block runs, another call of this client (`tasks/result`) puts the task's questions to it."""
        place = (client_of(ctx).session, task_ref)
        self._others[place] += 1
        try:
            yield
        finally:
            self._others[place] -= 1
            if not self._others[place]:
                del self._others[place]

    # In the call's own answer.

    def round(self, ctx: ServerRequestContext[Any, Any], tool: str, task: Task) -> dict[str, Any] | None:
        """The answer that has the client ask the user and repeat the call; None where it is not to be asked so."""
        if task.status is not TaskStatus.INPUT_REQUIRED:
            return None
        put = self._rounds.keys() | self._dismissed.keys()
        questions = [each for each in task.outstanding if (task.task_ref, each.key) not in put]
        asked = asking_round(ctx, tool, task, questions)
        if asked is not None:
            for each in questions:
                if declared(ctx, each):
                    _remember(self._rounds, (task.task_ref, each.key), _ROUND_SECONDS)
        return asked

    async def answered(
        self, ctx: ServerRequestContext[Any, Any], tool: str, task_ref: str, *, to_the_end: bool = False
    ) -> None:
        """Hand in what the user answered, where this call is one that was repeated with it.

        Of a call that waits `to_the_end` a dismissal is an answer too: no model gets to see the question.

        Raises:
            TaskNotFound, InvalidParameters: As in `Registry.provide_input`.
        """
        brought = answered_round(ctx, tool)
        if brought is None or brought.task_ref != task_ref:
            return
        scope, responses = scope_of(ctx), dict(brought.responses)
        if not to_the_end and self._models_may_answer(await self._registry.get(task_ref, scope=scope)):
            for key in [key for key, response in responses.items() if is_dismissal(response)]:
                del responses[key]
                self._dismiss(task_ref, key)
        for key in brought.responses:
            # One that is refused is put to the user again.
            if (timer := self._rounds.pop((task_ref, key), None)) is not None:
                timer.cancel()
        if responses:
            await self._registry.provide_input(task_ref, responses, scope=scope)

    # Who answers.

    def _models_may_answer(self, task: Task) -> bool:
        return self._registry.answer_by(task.operation_type) == "anyone"

    def answerer(self, ctx: ServerRequestContext[Any, Any], task: Task) -> Answerer:
        """Who answers what the task asks, as this caller is to be told."""
        place = (client_of(ctx).session, task.task_ref)
        if (
            place in self._dialogs
            or place in self._others
            or any((task.task_ref, each.key) in self._rounds for each in task.outstanding)
        ):
            return "asked"
        if self._models_may_answer(task):
            return "anyone"
        able = any(
            declared(ctx, each) and (ctx.session.can_send_request or ctx.protocol_version in MODERN_PROTOCOL_VERSIONS)
            for each in task.outstanding
        )
        return "user" if able else "elsewhere"

    def check_model_may_answer(self, task: Task, keys: Iterable[str]) -> None:
        """Check that a model may give these answers (`answer_by`).

        Raises:
            InvalidParameters: Only the user may.
        """
        if task.terminal or self._models_may_answer(task):
            return
        others = {each.key for each in task.inputs if each.method != ELICITATION}
        if not others.issuperset(keys):
            raise InvalidParameters(
                "Only the user may answer this: a client that can ask them does so while resolve_task_status waits.",
                details={"answer_by": "user"},
            )

    async def close(self) -> None:
        """End all dialogs."""
        talking = [each.running for each in self._dialogs.values()]
        for each in talking:
            each.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        for timers in (self._rounds, self._dismissed):
            for timer in timers.values():
                timer.cancel()
            timers.clear()


def _remember(places: dict[tuple[str, str], asyncio.TimerHandle], place: tuple[str, str], seconds: float) -> None:
    if place in places:
        return
    while len(places) >= _MOST_REMEMBERED:
        places.pop(next(iter(places))).cancel()
    places[place] = asyncio.get_running_loop().call_later(seconds, places.pop, place, None)
