"""The stores that the contract suite runs over. A further store is one more entry of `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raincheck.store import TaskStore
from raincheck.stores.memory import MemoryStore
from raincheck.stores.sqlite import SqliteStore

__all__ = ["BACKENDS", "Backend"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One store, as the suite makes it.

    Attributes:
        name: In the tests' ids.
        make: A store over the place that the folder stands for; the same folder, the same tasks where `shared`.
        make_quick: The same, not waiting for the disk where that can be chosen: for thousands of small steps.
        durable, shared: As its capabilities are to say.
    """

    name: str
    make: Callable[[Path], TaskStore]
    make_quick: Callable[[Path], TaskStore]
    durable: bool
    shared: bool


BACKENDS = (
    Backend(
        name="memory",
        make=lambda _: MemoryStore(),
        make_quick=lambda _: MemoryStore(),
        durable=False,
        shared=False,
    ),
    Backend(
        name="sqlite",
        make=lambda folder: SqliteStore(folder / "tasks.db"),
        make_quick=lambda folder: SqliteStore(folder / "tasks.db", synchronous="normal"),
        durable=True,
        shared=True,
    ),
)
