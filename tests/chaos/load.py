"""The callers of a run: they order, retry, answer, cancel and wait, and keep what they saw."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chaos.fleet import Node
from chaos.plan import Order, Plan

from support.serving import HttpCaller, Refused, RpcError

__all__ = ["Answer", "Load", "Sighting"]

_T = TypeVar("_T")

_SUBMIT_SECONDS = 8.0
_HOLD_SECONDS = 3.0
_PAUSE_SECONDS = 0.1
_ASK_AT_ONCE = 20
_LOOK_AFTER = Order(
    serial=1, at=0, operation="", how="ask", seconds=0, key=None, twin=False, cancel_after=None, polls=True
)
"""As if the tester had ordered it: it answers what a task without a caller asks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a server said of a task.

    Attributes:
        at: When it came; monotonic.
        server: Who said it.
        status: The whole answer; None: there is no such task.
    """

    at: float
    server: str
    status: dict[str, Any] | None

    @property
    def terminal(self) -> bool:
        """Whether the task was at its end."""
        return self.status is not None and bool(self.status["terminal"])


@dataclass(kw_only=True, slots=True)
class Sighting:
    """One ticket, and what its caller saw. Times are monotonic.

    Attributes:
        order: What was ordered; None for a task that nobody has a ticket of.
        given: When the ticket came.
        asked_to_cancel: When the first answer to a cancel came, None without one.
        answers: Those that matter: where the task was not there, and from its end on.
        open_later: Answers that it is not at its end, asked for after an answer that it is.
    """

    ref: str
    order: Order | None
    given: float
    asked_to_cancel: float | None = None
    answers: list[Answer] = field(default_factory=list[Answer])
    open_later: list[Answer] = field(default_factory=list[Answer])

    @property
    def ended(self) -> Answer | None:
        """The first answer that the task is at its end."""
        return next((answer for answer in self.answers if answer.terminal), None)


class Load:
    """All callers of a run.

    Attributes:
        sightings: By `task_ref`.
        keys: Which tasks each idempotency key got.
        counts: Calls that broke, were refused, were told that the store is not available, were given up.
        problems: Answers that no caller should get.
    """

    def __init__(self, plan: Plan, servers: Sequence[Node]) -> None:
        self.sightings: dict[str, Sighting] = {}
        self.keys: defaultdict[str, set[str]] = defaultdict(set)
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._plan = plan
        self._servers = list(servers)
        self._callers = {node.name: HttpCaller(node.port) for node in servers}
        self._latest: str | None = None

    def a_ref(self) -> str | None:
        """Some task that exists."""
        return self._latest

    async def run(self, began: float, settle_seconds: float) -> None:
        """Every order at its time, and each followed to its end; after the last one for `settle_seconds` at most."""
        until = began + self._plan.shape.seconds + settle_seconds
        try:
            async with asyncio.timeout(until - time.monotonic()), asyncio.TaskGroup() as group:
                for order in self._plan.orders:
                    group.create_task(self._see_to(order, began))
        except TimeoutError:
            self.counts["callers that waited in vain"] += 1

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(caller.close() for caller in self._callers.values()))

    async def _see_to(self, order: Order, began: float) -> None:
        await asyncio.sleep(began + order.at - time.monotonic())
        starts = (order.serial, order.serial + 1) if order.twin else (order.serial,)
        refs = {ref for ref in await asyncio.gather(*(self._submit(order, first) for first in starts)) if ref}
        await asyncio.gather(*(self._follow(self.sightings[ref], order) for ref in refs))

    async def _submit(self, order: Order, first: int) -> str | None:
        """The ticket's task; None where the caller gave up, since it does not know whether its call was heard."""
        arguments: dict[str, Any] = {"seconds": order.seconds, "how": order.how}
        named = {} if order.key is None else {"idempotency_key": order.key}
        turn = first
        while True:
            server = self._servers[turn % len(self._servers)]
            turn += 1
            try:
                ticket = await self._call(
                    server, lambda caller: caller.submit(order.operation, arguments, **named), _SUBMIT_SECONDS
                )
            except ConnectionRefusedError:
                ticket = None  # nobody heard it
            except OSError:
                if order.key is None:
                    self.counts["callers that gave up"] += 1
                    return None
                ticket = None
            except (Refused, RpcError) as error:
                self.problems.append(f"order {order.serial} at {server.name}: {error}")
                return None
            if ticket is not None:
                ref: str = ticket["task_ref"]
                self._latest = ref
                self.sightings.setdefault(ref, Sighting(ref=ref, order=order, given=time.monotonic()))
                if order.key is not None:
                    self.keys[order.key].add(ref)
                return ref
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _call(self, server: Node, call: Callable[[HttpCaller], Awaitable[_T]], seconds: float) -> _T | None:
        """The answer; None where the store did not answer the server, which said so.

        Raises:
            OSError: No answer came: refused (`ConnectionRefusedError`), broken off, or too late.
            Refused: The call was wrong.
        """
        caller = self._callers[server.name]
        try:
            async with asyncio.timeout(seconds):
                return await call(caller)
        except TimeoutError:
            self.counts["calls without an answer in time"] += 1
            raise
        except ConnectionRefusedError:
            self.counts["calls while a server was down"] += 1
            raise
        except OSError:
            # Its other connections will be dead too.
            await caller.close()
            self.counts["calls broken off"] += 1
            raise
        except RpcError as error:
            if not server.lives[-1].stop_requested:
                raise
            # HTTP's 500 for what was held when the server was told to stop: it was heard, and not answered.
            self.counts["calls broken off by a redeploy"] += 1
            raise ConnectionResetError(str(error)) from error
        except Refused as refused:
            if not refused.error.get("retryable"):
                raise
            self.counts["calls told that the store is away"] += 1
            return None

    async def _follow(self, sighting: Sighting, order: Order) -> None:
        """Look at a task through one server after the other, until its end, and do what its caller does."""
        cancelling = None if order.cancel_after is None else sighting.given + order.cancel_after
        turn = order.serial + 1
        while sighting.ended is None:
            server = self._servers[turn % len(self._servers)]
            turn += 1
            try:
                if cancelling is not None and sighting.asked_to_cancel is None and time.monotonic() >= cancelling:
                    await self._cancel(sighting, server)
                    continue
                status = await self._look(sighting, server, 0.0 if order.polls or cancelling else _HOLD_SECONDS)
                if status is not None and status["status"] == "input_required":
                    await self._provide(sighting, server, status)
            except OSError:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            except (Refused, RpcError) as error:
                self.problems.append(f"{sighting.ref} at {server.name}: {error}")
                return
            if sighting.ended is None and (status is None or order.polls or cancelling):
                await asyncio.sleep(_PAUSE_SECONDS)
        if order.serial % 4 == 0:
            await self._ask_another(sighting, self._servers[turn % len(self._servers)])

    async def _look(self, sighting: Sighting, server: Node, hold: float) -> dict[str, Any] | None:
        try:
            status = await self._call(server, lambda caller: caller.status(sighting.ref, hold), hold + _SUBMIT_SECONDS)
        except Refused as refused:
            if refused.code != "task_not_found":
                raise
            sighting.answers.append(Answer(at=time.monotonic(), server=server.name, status=None))
            raise
        if status is not None:
            self._keep(sighting, server, status)
        return status

    def _keep(self, sighting: Sighting, server: Node, status: dict[str, Any]) -> None:
        if status["terminal"]:
            sighting.answers.append(Answer(at=time.monotonic(), server=server.name, status=status))

    async def _cancel(self, sighting: Sighting, server: Node) -> None:
        arguments = {"task_ref": sighting.ref, "detail": "full"}
        status = await self._call(
            server, lambda caller: caller.call("cancel_background_task", arguments), _SUBMIT_SECONDS
        )
        if status is None:
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        sighting.asked_to_cancel = time.monotonic()
        self._keep(sighting, server, status)

    async def _provide(self, sighting: Sighting, server: Node, status: dict[str, Any]) -> None:
        responses = {key: {"action": "accept", "content": {"word": key}} for key in status["input_requests"]}
        arguments = {"task_ref": sighting.ref, "responses": responses, "detail": "full"}
        after = await self._call(server, lambda caller: caller.call("provide_task_input", arguments), _SUBMIT_SECONDS)
        if after is not None:
            self._keep(sighting, server, after)

    async def _ask_another(self, sighting: Sighting, server: Node) -> None:
        """What one server knows to be over, every other one does, at once."""
        try:
            status = await self._call(server, lambda caller: caller.status(sighting.ref), _SUBMIT_SECONDS)
        except OSError:
            return
        except Refused as refused:
            self.problems.append(f"{sighting.ref} at {server.name}: {refused}")
            return
        if status is None:
            return
        answer = Answer(at=time.monotonic(), server=server.name, status=status)
        (sighting.answers if status["terminal"] else sighting.open_later).append(answer)

    async def ask_everyone(self, refs: Collection[str], settle_seconds: float) -> None:
        """At last: what every server says of each of these tasks, and of every task with a ticket.

        Args:
            refs: All that there are.
            settle_seconds: How long to wait for those that nobody has a ticket of.
        """
        for ref in refs:
            self.sightings.setdefault(ref, Sighting(ref=ref, order=None, given=time.monotonic()))
        ownerless = [sighting for sighting in self.sightings.values() if sighting.order is None]
        try:
            async with asyncio.timeout(settle_seconds):
                await asyncio.gather(*(self._follow(sighting, _LOOK_AFTER) for sighting in ownerless))
        except TimeoutError:
            self.counts["callers that waited in vain"] += 1
        places = asyncio.Semaphore(_ASK_AT_ONCE)

        async def ask(sighting: Sighting, server: Node) -> None:
            async with places:
                status = await self._finally(sighting.ref, server)
            answer = Answer(at=time.monotonic(), server=server.name, status=status)
            over = status is None or status["terminal"]
            (sighting.answers if over else sighting.open_later).append(answer)

        await asyncio.gather(*(ask(each, server) for each in self.sightings.values() for server in self._servers))

    async def _finally(self, ref: str, server: Node) -> dict[str, Any] | None:
        until = time.monotonic() + 30
        while True:
            try:
                status = await self._call(server, lambda caller: caller.status(ref), _SUBMIT_SECONDS)
                if status is not None:
                    return status
            except Refused as refused:
                if refused.code == "task_not_found":
                    return None
                raise
            except (OSError, json.JSONDecodeError):
                pass
            assert time.monotonic() < until, f"{server.name} gives no answer about {ref}"
            await asyncio.sleep(_PAUSE_SECONDS)
