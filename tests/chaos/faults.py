"""Makes the faults of a plan, each at its time, whatever the others are at."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chaos.fleet import Fleet, Node
from chaos.ground import Ground
from chaos.plan import Fault, Plan

from support.serving import calling

__all__ = ["Done", "Faults", "makes"]

_CROWD = 60
_CROWD_SECONDS = 30.0
_UP_SECONDS = 40.0
_LATE_SECONDS = 0.3
_SLOW_SECONDS = 2.5
_LOCK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A fault as it was made. Times are monotonic; `pid` is the process that it hit, if it was one."""

    fault: Fault
    began: float
    ended: float
    pid: int | None = None


_Maker = Callable[["Faults", Node, Fault], Awaitable[None]]
_MAKERS: dict[str, _Maker] = {}


def makes(kind: str) -> Callable[[_Maker], _Maker]:
    """What a fault of that kind (`chaos.plan.KINDS`) does to a process; it returns when the fault is over."""

    def register(maker: _Maker) -> _Maker:
        _MAKERS[kind] = maker
        return maker

    return register


class Faults:
    """The faults of one run.

    Attributes:
        done: Those that were made, in the order of their ends.
        problems: What must not be: a process that would not stop in order.
    """

    def __init__(self, plan: Plan, fleet: Fleet, ground: Ground, a_ref: Callable[[], str | None]) -> None:
        self.done: list[Done] = []
        self.problems: list[str] = []
        self._plan = plan
        self._fleet = fleet
        self._ground = ground
        self._a_ref = a_ref
        self._turns = {name: asyncio.Lock() for name in (*fleet.nodes, "store", "all")}

    async def run(self, began: float) -> None:
        """All of them, counted from `began`; returns when the last one is over."""
        async with asyncio.TaskGroup() as group:
            for fault in self._plan.faults:
                group.create_task(self._make(fault, began))

    async def _make(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(began + fault.at - time.monotonic())
        # One at a time for each victim.
        async with self._turns[fault.victim]:
            node = self._fleet.nodes.get(fault.victim)
            if node is not None:
                # A fault that hits nobody is none.
                try:
                    async with asyncio.timeout(_UP_SECONDS):
                        await node.up.wait()
                except TimeoutError:
                    self.problems.append(f"{node.name} does not come up again: {node.failed_starts[-1:]}")
                    return
            started = time.monotonic()
            pid = node.lives[-1].pid if node else None
            await self._hit(fault, node)
            self.done.append(Done(fault=fault, began=started, ended=time.monotonic(), pid=pid))

    async def _hit(self, fault: Fault, node: Node | None) -> None:
        if node is not None:
            await _MAKERS[fault.kind](self, node, fault)
        elif fault.kind == "clock":
            await self._shift(list(self._fleet.nodes.values()), fault)
        elif fault.kind == "queue flushed":
            await self._ground.flush_queue()
        else:
            async with self._store_away(fault.kind):
                await asyncio.sleep(fault.seconds)

    @asynccontextmanager
    async def _store_away(self, kind: str) -> AsyncGenerator[None]:
        await self._ground.go_down(kind)
        try:
            yield
        finally:
            await self._ground.come_back()

    @makes("kill")
    async def _kill(self, node: Node, fault: Fault) -> None:
        node.down_seconds = fault.seconds
        node.signal(signal.SIGKILL)

    @makes("freeze")
    async def _freeze(self, node: Node, fault: Fault) -> None:
        node.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            node.signal(signal.SIGCONT)

    @makes("slow wake")
    async def _slow_wake(self, node: Node, fault: Fault) -> None:
        """It is frozen, and finds the store slow when it wakes: each answer late, or the file locked."""
        node.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
            if node.proxy is not None:
                node.proxy.slow_down(_LATE_SECONDS)
                node.signal(signal.SIGCONT)
                await asyncio.sleep(_SLOW_SECONDS)
            else:
                await self._wake_beside_a_locked_file(node)
        finally:
            node.signal(signal.SIGCONT)
            if node.proxy is not None:
                node.proxy.heal()

    async def _wake_beside_a_locked_file(self, node: Node) -> None:
        async with self._turns["store"]:
            locking = asyncio.create_task(self._ground.go_down("store frozen"))
            # Frozen in the middle of a write, it has the lock itself until it wakes.
            await asyncio.wait({locking}, timeout=_LOCK_SECONDS)
            node.signal(signal.SIGCONT)
            try:
                await locking
                await asyncio.sleep(_SLOW_SECONDS)
            finally:
                await self._ground.come_back()

    @makes("hang")
    async def _hang(self, node: Node, fault: Fault) -> None:
        """Its event loop does not answer; its threads go on."""
        node.hang(fault.seconds)
        await asyncio.sleep(fault.seconds)

    @makes("redeploy")
    async def _redeploy(self, node: Node, fault: Fault) -> None:
        node.down_seconds = fault.seconds
        life = node.lives[-1]
        node.signal(signal.SIGTERM)
        await node.ended(life)
        if life.exit_code != 0 and life.died is None:
            self.problems.append(f"{node.name} ended with {life.exit_code} after SIGTERM")

    @makes("cut")
    async def _cut(self, node: Node, fault: Fault) -> None:
        assert node.proxy is not None
        node.proxy.cut()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            node.proxy.heal()

    @makes("answers lost")
    async def _lose_answers(self, node: Node, fault: Fault) -> None:
        """What it asks of the store is done, and it does not hear of it."""
        assert node.proxy is not None
        node.proxy.lose_answers_from(b"")
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            node.proxy.heal()

    @makes("black hole")
    async def _black_hole(self, node: Node, fault: Fault) -> None:
        assert node.proxy is not None
        node.proxy.black_hole()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            node.proxy.heal()

    @makes("clock")
    async def _shift_one(self, node: Node, fault: Fault) -> None:
        await self._shift([node], fault)

    async def _shift(self, nodes: list[Node], fault: Fault) -> None:
        wrong = [node.clock for node in nodes if node.clock]
        for clock in wrong:
            clock.shift(fault.shift)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            for clock in wrong:
                clock.shift(0)

    @makes("crowd")
    async def _crowd(self, node: Node, fault: Fault) -> None:
        """More calls at once than the node has connections to its store."""
        ref = self._a_ref()
        if ref is None:
            return
        try:
            async with asyncio.timeout(_CROWD_SECONDS), calling(node.port) as caller:
                await asyncio.gather(*(caller.status(ref) for _ in range(_CROWD)), return_exceptions=True)
        except TimeoutError:
            self.problems.append(f"{node.name} did not answer {_CROWD} calls within {_CROWD_SECONDS:g} s")
