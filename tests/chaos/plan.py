"""What happens in a run, drawn from a seed: the orders of the callers, and the faults."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["KINDS", "Fault", "How", "Kind", "Operation", "Order", "Plan", "Shape", "draw"]

How = Literal["plain", "report", "ask", "raise", "kill"]
"""What an operation does beside taking time: see `chaos.operations.work`."""

Operation = Literal["fail", "retry", "steps", "thread", "command", "isolated"]
"""What is ordered: see `chaos.operations`. All but "fail" may run again where their worker is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        victim: Whom it hits: any process, one that takes calls, or the store.
        possible: Where: anywhere, with a store on the network, where a clock can jump, on the grounds that name it.
        seconds: Draws how long it lasts, in leases; of a process: how long it stays down.
    """

    victim: Literal["node", "server", "store"]
    possible: Literal["anywhere", "network", "clock", "ground"]
    seconds: Callable[[random.Random], float]


def _none(rng: random.Random) -> float:
    return 0.0


def _between(least: float, most: float) -> Callable[[random.Random], float]:
    return lambda rng: rng.uniform(least, most)


def _down(rng: random.Random) -> float:
    """Back before anybody noticed, or after others had to take over."""
    return rng.choice((0.0, rng.uniform(0, 2)))


KINDS: Mapping[str, Kind] = {
    "kill": Kind(victim="node", possible="anywhere", seconds=_down),
    "freeze": Kind(victim="node", possible="anywhere", seconds=_between(0.9, 3)),
    "slow wake": Kind(victim="node", possible="anywhere", seconds=_between(0.9, 3)),
    "hang": Kind(victim="node", possible="anywhere", seconds=_between(0.9, 3)),
    "redeploy": Kind(victim="node", possible="anywhere", seconds=_down),
    "cut": Kind(victim="node", possible="network", seconds=_between(0.1, 1.2)),
    "black hole": Kind(victim="node", possible="network", seconds=_between(1.3, 2.2)),
    "answers lost": Kind(victim="node", possible="network", seconds=_between(0.3, 1.5)),
    "clock": Kind(victim="node", possible="clock", seconds=_between(1.3, 2.2)),
    "crowd": Kind(victim="server", possible="anywhere", seconds=_none),
    "store stopped": Kind(victim="store", possible="ground", seconds=_between(0, 1)),
    "store killed": Kind(victim="store", possible="ground", seconds=_between(0, 1)),
    "store frozen": Kind(victim="store", possible="ground", seconds=_between(0.3, 1.5)),
    "store's clock": Kind(victim="store", possible="ground", seconds=_between(0.5, 3)),
    "file away": Kind(victim="store", possible="ground", seconds=_between(0.1, 1.5)),
    "queue flushed": Kind(victim="store", possible="ground", seconds=_none),
}
"""Every kind of fault. To add one: an entry here; what it does, in `chaos.faults` (a method of `Faults` under `@makes`)
or, where it is the store's, in `go_down` and `come_back` of the grounds that name it in their `kinds`; a row in
docs/chaos.md."""

LONG_HANG_SECONDS = (62.0, 66.0)
"""A worker gives its tasks up when its event loop was silent for a minute."""

_LONG_RUN_SECONDS = 140.0
_HOWS: Mapping[How, int] = {"plain": 70, "report": 16, "ask": 8, "raise": 6}
_OPERATIONS: Mapping[Operation, int] = {"fail": 40, "retry": 40, "steps": 7, "thread": 6, "command": 4, "isolated": 3}
_RECOVERY_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How large a run is, and what can be done to its parts.

    Attributes:
        tasks, faults: How many.
        killers: How many of the tasks kill their own worker.
        seconds: How long orders come in.
        lease: `lease_seconds`, by which faults are measured.
        nodes: The processes.
        servers: Those of them that take calls.
        kinds: The faults that are possible here.
        machine_clock: Whether a jump of the clock is one of every process, since the store has no clock of its own.
    """

    tasks: int
    faults: int
    killers: int
    seconds: float
    lease: float
    nodes: Sequence[str]
    servers: Sequence[str]
    kinds: Sequence[str]
    machine_clock: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One piece of work that a caller wants done.

    Attributes:
        at: When it is ordered, in seconds from the beginning.
        key: Its idempotency key, if any.
        twin: Whether the call is made twice at once, at two servers.
        cancel_after: Seconds after its ticket at which it is cancelled, if it is.
        polls: Whether its caller polls; else it holds.
    """

    serial: int
    at: float
    operation: str
    how: How
    seconds: float
    key: str | None
    twin: bool
    cancel_after: float | None
    polls: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: When, in seconds from the beginning.
        victim: The node, or "store", or "all".
        seconds: How long it lasts: how long the process stays down or frozen, or a connection cut.
        shift: By how many seconds the clock jumps.
    """

    at: float
    kind: str
    victim: str
    seconds: float
    shift: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All of it; the same for the same seed, name and shape."""

    seed: int
    name: str
    shape: Shape
    orders: tuple[Order, ...]
    faults: tuple[Fault, ...]

    @property
    def digest(self) -> str:
        """Short, and another one where anything differs."""
        return hashlib.sha256(repr((self.orders, self.faults)).encode()).hexdigest()[:12]


def draw(seed: int, name: str, shape: Shape) -> Plan:
    """The plan of that seed for the pair of that name."""
    rng = random.Random(f"{seed} {name}")
    return Plan(
        seed=seed,
        name=name,
        shape=shape,
        orders=tuple(_orders(random.Random(rng.random()), shape)),
        faults=tuple(_faults(random.Random(rng.random()), shape)),
    )


def _orders(rng: random.Random, shape: Shape) -> Iterator[Order]:
    killers = frozenset(rng.sample(range(shape.tasks), shape.killers))
    for serial in range(shape.tasks):
        operation: Operation = rng.choices(list(_OPERATIONS), list(_OPERATIONS.values()))[0]
        how: How = rng.choices(list(_HOWS), list(_HOWS.values()))[0]
        cancelled = rng.random() < 0.06
        if serial in killers:
            operation, how = rng.choice(("fail", "retry")), "kill"
        elif operation not in ("fail", "retry"):
            how = "plain"
        # A few run for longer than a lease, so that what stands still or is cut off has something to lose.
        long = rng.random() < (0.05 if operation in ("fail", "retry") else 0.6)
        seconds = rng.uniform(1.0, 2.5) * shape.lease if long else rng.uniform(0, 0.6)
        keyed = rng.random() < 2 / 3
        cancel_after = round(rng.uniform(0, 0.8), 3)
        # A process takes its time to start: told to end meanwhile, it may write its first line all the same.
        never = how == "kill" or operation in ("command", "isolated")
        yield Order(
            serial=serial,
            at=round(shape.seconds * serial / shape.tasks, 3),
            operation=operation,
            how=how,
            seconds=round(seconds, 3),
            key=f"piece {serial}" if keyed else None,
            twin=keyed and rng.random() < 0.1,
            cancel_after=cancel_after if cancelled and not never else None,
            polls=rng.random() < 0.3,
        )


def _faults(rng: random.Random, shape: Shape) -> Iterator[Fault]:
    free_at = dict.fromkeys((*shape.nodes, "store"), 0.0)
    deck: list[str] = []
    last = shape.seconds * 0.97
    for number in range(shape.faults):
        at = 0.5 + (last - 0.5) * (number + rng.random()) / shape.faults
        if not deck:
            # Every kind comes as often as the others.
            deck = list(shape.kinds)
            rng.shuffle(deck)
        kind = deck.pop()
        fault = _fault(rng, kind, at, shape, free_at)
        busy_until = fault.at + fault.seconds + _RECOVERY_SECONDS
        if fault.victim in free_at:
            free_at[fault.victim] = busy_until
        yield fault


def _fault(rng: random.Random, kind: str, at: float, shape: Shape, free_at: Mapping[str, float]) -> Fault:
    seconds, shift = KINDS[kind].seconds(rng) * shape.lease, 0
    if kind == "hang" and shape.seconds > _LONG_RUN_SECONDS and rng.random() < 1 / 3:
        seconds = rng.uniform(*LONG_HANG_SECONDS)
    if kind == "clock":
        shift = rng.choice((-3600, 3600))
        if shape.machine_clock:
            return Fault(at=round(at, 3), kind=kind, victim="all", seconds=round(seconds, 3), shift=shift)
    candidates = {"node": list(shape.nodes), "server": list(shape.servers), "store": ["store"]}[KINDS[kind].victim]
    # Where all of them are at something, it is the one that is ready first.
    ready = [node for node in candidates if free_at[node] <= at] or [min(candidates, key=lambda node: free_at[node])]
    victim = rng.choice(ready)
    return Fault(at=round(at, 3), kind=kind, victim=victim, seconds=round(seconds, 3), shift=shift)


assert set(get_args(How)) == {*_HOWS, "kill"}
assert get_args(Operation) == tuple(_OPERATIONS)
