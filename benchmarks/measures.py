"""How each row is measured. A measure takes one contestant and enters its samples in the book."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.contestants import Contestant, Server, listing_seconds
from benchmarks.rows import Book

__all__ = ["SECTIONS", "Scale", "Section"]

# A rival's client that asks at its hint (seconds) would measure the hint; this is its best of 0, 0.02, 0.1 and 0.3.
RIVAL_PAUSE = 0.1
NAPS_BEHIND: dict[str, Any] = {"operation": "nap", "parameters": {"seconds": 30}}
SEED = 20260728


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured: of the repeated rows, and how long the bounded waits of the long ones are."""

    calls: int = 300
    seconds: float = 1.2
    patience: float = 45.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Rows that one server start serves.

    Attributes:
        rows: The rows that it fills.
        measure: Measures one contestant once.
        rounds: How often in a full run; None is as often as the run says.
        long: Whether `--quick` leaves it out.
        floor: Whether the floor takes part.
        together: "no"; "all" (nobody computes, so nobody disturbs); "rivals" (raincheck alone, then the rivals
            together, since they only wait).
    """

    name: str
    rows: tuple[str, ...]
    measure: Callable[[Contestant, Book, Scale], None]
    rounds: int | None = 1
    long: bool = True
    floor: bool = False
    together: Literal["no", "all", "rivals"] = "no"


def _warm(server: Server) -> None:
    # By whole rounds, so that no work is left over for what is measured next.
    server.load(do="fetch", callers=50, seconds=0.5, pause=RIVAL_PAUSE)


def fetches(contestant: Contestant, book: Book, scale: Scale) -> None:
    """Submit, run and fetch no-op tasks."""
    with contestant.server() as server:
        _warm(server)
        found = server.load(do="fetch", callers=50, seconds=scale.seconds, pause=RIVAL_PAUSE)
        book.add("fetch_rate", contestant.key, found["per_second"])


def statuses(contestant: Contestant, book: Book, scale: Scale) -> None:
    """Ask for the status of a settled task."""
    with contestant.server() as server:
        _warm(server)
        order: dict[str, Any] = {"call": "status", "operation": "noop"}
        one = server.load(do="latency", calls=scale.calls, **order)
        many = server.load(do="rate", callers=50, seconds=scale.seconds, **order)
        book.add("status_p50", contestant.key, one["p50"])
        book.add("status_rate", contestant.key, many["per_second"])


def acknowledgements(contestant: Contestant, book: Book, scale: Scale) -> None:
    """Submit tasks that do nothing, so that running them is part of the load, and tasks that sleep: it is not."""
    with contestant.server() as server:
        _warm(server)
        order: dict[str, Any] = {"call": "submit", "callers": 50, "seconds": scale.seconds}
        beside = server.load(do="rate", operation="noop", **order)
        book.add("ack_noop_rate", contestant.key, beside["per_second"])
    with contestant.server() as server:
        _warm(server)
        one = server.load(do="latency", call="submit", calls=scale.calls, **NAPS_BEHIND)
        many = server.load(do="rate", **order, **NAPS_BEHIND)
        book.add("ack_p50", contestant.key, one["p50"])
        book.add("ack_p99", contestant.key, one["p99"])
        book.add("ack_rate", contestant.key, many["per_second"])


def starts(contestant: Contestant, book: Book, scale: Scale) -> None:
    """From process start to the first listing."""
    book.add("start", contestant.key, listing_seconds(contestant))


def memory(contestant: Contestant, book: Book, scale: Scale) -> None:
    """Resident memory once it has answered a few calls."""
    with contestant.server() as server:
        server.load(do="latency", call="submit", operation="noop", calls=1)
        book.add("memory", contestant.key, server.child.resident_bytes() / 2**20)


def idle(contestant: Contestant, book: Book, scale: Scale) -> None:
    """Processor time of a server that nobody calls."""
    with contestant.server() as server:
        server.load(do="latency", call="submit", operation="noop", calls=1)
        time.sleep(1)
        before, started = server.child.cpu_seconds(), time.perf_counter()
        time.sleep(20)
        spent = (server.child.cpu_seconds() - before) / (time.perf_counter() - started)
        book.add("cpu", contestant.key, spent * 100)


def waiting(contestant: Contestant, book: Book, scale: Scale) -> None:
    """What 1,000 sleeping tasks add to the resident memory of a warm server."""
    with contestant.server(concurrency=1000) as server:
        _warm(server)
        server.load(do="fetch", callers=50, seconds=1, pause=RIVAL_PAUSE)
        before = server.child.resident_bytes()
        # Over 50 connections, not 1,000: connections cost memory too.
        for _ in range(20):
            server.load(do="submit", operation="nap", tasks=[{"seconds": 60}] * 50)
        time.sleep(2)
        book.add("waiting", contestant.key, (server.child.resident_bytes() - before) / 1000 / 1024)


def delivery(contestant: Contestant, book: Book, scale: Scale) -> None:
    """How long a finished result is on its way to a client that waits as it is told to."""
    with contestant.server() as server:
        _warm(server)
        tasks = [{"seconds": 12.0}] * 10
        given = server.load(do="submit", operation="nap", tasks=tasks, spacing=0.13)
        found = server.load(do="follow", refs=given["refs"], until=given["first_at"] + 40)["tasks"]
        late = sorted((each["at"] - each["value"]) * 1000 for each in found if each["status"] == "completed")
        if len(late) < len(tasks):
            book.add("delivery", contestant.key, None, f"only {len(late)} of {len(tasks)} completed")
            return
        book.add("delivery", contestant.key, late[len(late) // 2])
        book.add("delivery_worst", contestant.key, late[-1])


def burst(contestant: Contestant, book: Book, scale: Scale) -> None:
    """50 tasks of 10 to 15 s at once, settings as they come."""
    chosen = random.Random(SEED)
    lengths = [round(chosen.uniform(10, 15), 2) for _ in range(50)]
    with contestant.server() as server:
        _warm(server)
        given = server.load(do="submit", operation="nap", tasks=[{"seconds": each} for each in lengths])
        started = given["first_at"]
        found = server.load(limit=120, do="follow", refs=given["refs"], until=started + 90)["tasks"]
        completed = [each["at"] for each in found if each["status"] == "completed"]
        book.add("burst_ack", contestant.key, max(given["ack_ms"]))
        if len(completed) < len(lengths):
            book.add("burst", contestant.key, None, f"only {len(completed)} of 50 within 90 s")
            return
        total = max(completed) - started
        book.add("burst", contestant.key, total, f"the longest takes {max(lengths)} s")
        book.add("burst_over", contestant.key, total - max(lengths))


def _interrupted(contestant: Contestant, book: Book, scale: Scale, row: str, number: int) -> None:
    """20 tasks of 5 s; 2 s later the signal; then a new start, and the clients go on waiting."""
    with contestant.server() as server:
        _warm(server)
        tasks = [{"seconds": 5.0}] * 20
        refs = server.load(do="submit", operation="nap", tasks=tasks)["refs"]
        time.sleep(2)
        from_signal = time.time()
        server.child.signal(number)
        try:
            server.child.popen.wait(30)
        except subprocess.TimeoutExpired:
            server.child.kill()
        gone = time.time()
        server.start()
        from_start = gone if number == signal.SIGKILL else from_signal
        found = server.load(limit=scale.patience + 20, do="follow", refs=refs, until=from_start + scale.patience)[
            "tasks"
        ]
        ends = [each["at"] for each in found if each["status"] == "completed"]
        note = f"{len(ends)} of 20"
        if number == signal.SIGTERM:
            note += f", gone after {gone - from_signal:.1f} s"
        if not ends:
            book.add(row, contestant.key, None, "all lost" if not contestant.durable else "none within the patience")
        elif len(ends) < len(refs):
            book.add(row, contestant.key, None, f"{note} within {scale.patience:.0f} s")
        else:
            book.add(row, contestant.key, max(ends) - from_start, note)


def killed(contestant: Contestant, book: Book, scale: Scale) -> None:
    """`kill -9` in mid-work."""
    _interrupted(contestant, book, scale, "kill", signal.SIGKILL)


def terminated(contestant: Contestant, book: Book, scale: Scale) -> None:
    """SIGTERM in mid-work."""
    _interrupted(contestant, book, scale, "term", signal.SIGTERM)


_REPEATED: dict[str, Any] = {"rounds": None, "long": False, "floor": True}

SECTIONS: Sequence[Section] = (
    Section(
        name="ack", rows=("ack_p50", "ack_p99", "ack_rate", "ack_noop_rate"), measure=acknowledgements, **_REPEATED
    ),
    Section(name="status", rows=("status_p50", "status_rate"), measure=statuses, **_REPEATED),
    Section(name="fetch", rows=("fetch_rate",), measure=fetches, **_REPEATED),
    Section(name="start", rows=("start",), measure=starts, **_REPEATED),
    Section(name="memory", rows=("memory",), measure=memory, rounds=2, long=False, floor=True),
    Section(name="waiting", rows=("waiting",), measure=waiting),
    Section(name="cpu", rows=("cpu",), measure=idle, floor=True, together="all"),
    Section(name="delivery", rows=("delivery", "delivery_worst"), measure=delivery, together="rivals"),
    Section(name="burst", rows=("burst", "burst_over", "burst_ack"), measure=burst, together="rivals"),
    Section(name="kill", rows=("kill",), measure=killed, together="rivals"),
    Section(name="term", rows=("term",), measure=terminated, together="rivals"),
)
