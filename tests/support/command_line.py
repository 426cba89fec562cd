"""What a call of the command line did, and a store's file with tasks in every state."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from raincheck.domain.task import Outcome, Progress, Task, TaskError, new_task_ref
from raincheck.domain.transitions import Claim, Event, ReportProgress, Settle, transition
from raincheck.stores.sqlite.store import SqliteStore
from raincheck.timing.clock import utc_now

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one call of the command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


CommandLine = Callable[..., Said]


class Tasks:
    """A store's file, and the tasks that a test puts there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def at_store(self, work: Callable[[SqliteStore], Awaitable[_T]]) -> _T:
        async def run() -> _T:
            store = SqliteStore(self.path)
            await store.open()
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def add(self, *events: Event, ref: str | None = None, age: timedelta = timedelta(0), **fields: Any) -> Task:
        """A task accepted `age` ago, after the events."""
        at = utc_now() - age
        new: dict[str, Any] = {
            "task_ref": ref or new_task_ref(),
            "scope": "ada",
            "operation_type": "report",
            "arguments": {"quarter": "Q3"},
            "created_at": at,
            "updated_at": at,
            "deadline_at": at + timedelta(hours=1),
            "ttl_seconds": 86400.0,
        }

        async def insert(store: SqliteStore) -> Task:
            task = (await store.insert(Task(**{**new, **fields}))).task
            for event in events:
                task = transition(task, event, at)
                assert await store.replace(task)
            return task

        return self.at_store(insert)

    def change(self, ref: str, event: Event) -> None:
        """What becomes of the task."""

        async def change(store: SqliteStore) -> None:
            task = await store.get(ref)
            assert task is not None
            assert await store.replace(transition(task, event, utc_now()))

        self.at_store(change)

    def get(self, ref: str) -> Task | None:
        return self.at_store(lambda store: store.get(ref))


def claimed() -> Claim:
    return Claim(worker_id="worker-1", lease_until=utc_now() + timedelta(seconds=30))


def progressed() -> tuple[Event, ...]:
    return claimed(), ReportProgress(fence=1, progress=Progress(fraction=0.4, message="page 4 of 10"))


def completed(value: Any) -> tuple[Event, ...]:
    return claimed(), Settle(fence=1, outcome=Outcome(value=value))


def failed(code: str, message: str) -> tuple[Event, ...]:
    return claimed(), Settle(fence=1, outcome=Outcome(error=TaskError(code=code, message=message)))


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The command and all under it, each with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, *path, name)


@contextmanager
def own_imports() -> Generator[None]:
    """Whatever the block imports, and wherever it looks for modules, is forgotten at its end."""
    modules, path = set(sys.modules), list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            # A clone may lie in the temporary folder itself, and its libraries with it.
            if str(getattr(sys.modules[name], "__file__", "")).startswith(f"{tempfile.gettempdir()}/pytest-"):
                del sys.modules[name]
