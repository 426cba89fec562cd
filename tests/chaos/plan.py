"""What happens in a run, drawn from a seed: the orders of the callers, and the faults."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Fault", "FaultKind", "How", "Order", "Plan", "Shape", "draw"]

How = Literal["plain", "report", "ask", "raise", "kill"]
"""What an operation does beside taking time: see `chaos.operations.work`."""

FaultKind = Literal[
    "kill",
    "freeze",
    "redeploy",
    "cut",
    "black hole",
    "clock",
    "crowd",
    "store stopped",
    "store killed",
    "store frozen",
    "queue flushed",
]
"""The faults; `chaos.faults` makes them."""

_OF_THE_STORE = frozenset({"store stopped", "store killed", "store frozen", "queue flushed"})
_HOWS: Mapping[How, int] = {"plain": 70, "report": 16, "ask": 8, "raise": 6}
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
    kinds: Sequence[FaultKind]
    machine_clock: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One piece of work that a caller wants done.

    Attributes:
        at: When it is ordered, in seconds from the beginning.
        operation: "fail" or "retry".
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
    kind: FaultKind
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
        how: How = "kill" if serial in killers else rng.choices(list(_HOWS), list(_HOWS.values()))[0]
        # A few run for longer than a lease, so that what stands still or is cut off has something to lose.
        long = rng.random() < 0.05
        seconds = rng.uniform(1.0, 2.5) * shape.lease if long else rng.uniform(0, 0.6)
        keyed = rng.random() < 2 / 3
        yield Order(
            serial=serial,
            at=round(shape.seconds * serial / shape.tasks, 3),
            operation=rng.choice(("fail", "retry")),
            how=how,
            seconds=round(seconds, 3),
            key=f"piece {serial}" if keyed else None,
            twin=keyed and rng.random() < 0.1,
            cancel_after=round(rng.uniform(0, 0.8), 3) if how != "kill" and rng.random() < 0.06 else None,
            polls=rng.random() < 0.3,
        )


def _faults(rng: random.Random, shape: Shape) -> Iterator[Fault]:
    free_at = dict.fromkeys((*shape.nodes, "store"), 0.0)
    deck: list[FaultKind] = []
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


def _fault(rng: random.Random, kind: FaultKind, at: float, shape: Shape, free_at: Mapping[str, float]) -> Fault:
    seconds, shift = _length(rng, kind, shape.lease), 0
    if kind == "clock":
        shift = rng.choice((-3600, 3600))
        if shape.machine_clock:
            return Fault(at=round(at, 3), kind=kind, victim="all", seconds=round(seconds, 3), shift=shift)
    candidates = ["store"] if kind in _OF_THE_STORE else list(shape.servers if kind == "crowd" else shape.nodes)
    # Where all of them are at something, it is the one that is ready first.
    ready = [node for node in candidates if free_at[node] <= at] or [min(candidates, key=lambda node: free_at[node])]
    victim = rng.choice(ready)
    return Fault(at=round(at, 3), kind=kind, victim=victim, seconds=round(seconds, 3), shift=shift)


def _length(rng: random.Random, kind: FaultKind, lease: float) -> float:
    match kind:
        case "kill" | "redeploy":
            # Back before anybody noticed, or after others had to take over.
            return rng.choice((0.0, rng.uniform(0, 2 * lease)))
        case "freeze" | "black hole" | "clock":
            return rng.uniform(1.3, 2.2) * lease
        case "cut":
            return rng.uniform(0.1, 1.2) * lease
        case "store stopped" | "store killed":
            return rng.uniform(0, 1.0) * lease
        case "store frozen":
            return rng.uniform(0.3, 1.5) * lease
        case "crowd" | "queue flushed":
            return 0.0


assert set(get_args(How)) == {*_HOWS, "kill"}
