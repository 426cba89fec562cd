"""Diagnostics of `raincheck store`: uses a store as servers and workers do."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from raincheck.domain.task import Task, new_task_ref
from raincheck.domain.transitions import Cancel, transition
from raincheck.encryption.cipher import KEY_RECORDS, key_id, keys_in_use
from raincheck.errors import InvalidParameters, StoreError, StoreUnusable
from raincheck.ports.task_store import TaskStore
from raincheck.timing.clock import utc_now

if TYPE_CHECKING:
    from raincheck.cli.target import Target
    from raincheck.config.settings import Settings
    from raincheck.encryption.plain_payloads import PlainTasks

_PURGES = 50
_PURGE_STEP = 500
_CLOCKS_APART_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line: what was looked at, whether it is as it has to be, and what was found."""

    level: Literal["ok", "warning", "failed"]
    name: str
    told: str


async def migrated(target: Target) -> list[str]:
    """Make or upgrade the schemas of the store and the queue; what that did, in words.

    Raises:
        StoreError: It cannot be done.
    """
    from raincheck.composition.adapters import prepare_queue

    did = [await _store_migrated(target)]
    if await prepare_queue(target.settings):
        did.append(f"the queue of {target.settings.execution.engine} has the schema that it needs")
    return did


async def _store_migrated(target: Target) -> str:
    settings = target.settings
    there = target.store_is_given or settings.state.provider != "sqlite" or settings.database.exists()
    try:
        async with _opened(target, migrate=not there):
            return "the schema is up to date, nothing was changed" if there else "the file was made"
    except StoreUnusable:
        # Missing or older, which the next lines mend; or foreign or newer, which they say.
        async with _opened(target, migrate=True):
            return "the schema was made or upgraded"


async def checked(target: Target) -> AsyncGenerator[Finding]:
    """Look at one thing after the other; ends after the first that makes the store unusable."""
    began = time.monotonic()
    told: list[logging.LogRecord] = []
    with _listening(told):
        try:
            async with _opened(target, migrate=False) as store:
                took = (time.monotonic() - began) * 1000
                yield Finding(level="ok", name="reachable", told=f"open after {took:.0f} ms")
                yield Finding(level="ok", name="schema", told="as this raincheck needs it")
                yield await _rights(store)
                yield await _clock(store)
                for record in told:
                    level = "warning" if record.levelno >= logging.WARNING else "ok"
                    yield Finding(level=level, name="kept", told=record.getMessage())
                if not told:
                    yield Finding(level="ok", name="kept", told=_kept(target.settings))
        except StoreUnusable as error:
            yield Finding(level="failed", name="schema", told=error.message)
        except StoreError as error:
            yield Finding(level="failed", name="reachable", told=error.message)


async def known_keys(target: Target, forget: str | None) -> dict[str, bool]:
    """The ids of the keys that payloads may be sealed with, each with whether the settings name it.

    Raises:
        InvalidParameters: The key to be forgotten is not there, or it is the one that seals.
    """
    settings = target.settings
    ids = [key_id(key) for key in settings.encryption.key_bytes(os.environ)]
    # Opened as it is: a key that is missing is what this command is for.
    plain = settings.model_copy(update={"encryption": type(settings.encryption)()})
    async with _opened(target, plain, migrate=False) as store:
        in_use = await keys_in_use(store)
        if forget is not None:
            if forget not in in_use:
                known = ", ".join(in_use) or "none"
                raise InvalidParameters(f"nothing is sealed with a key {forget!r}; known: {known}")
            if ids[:1] == [forget]:
                raise InvalidParameters(f"{forget} is the key that seals now: put another one first in 'keys'")
            record = await store.get_record(KEY_RECORDS, forget)
            if record is not None:
                await store.remove_record(record)
            in_use.remove(forget)
        return {key: key in ids for key in in_use}


async def closed(target: Target) -> PlainTasks:
    """Close the store to plain payloads, where no task has one any more; the tasks that have. Records are sealed first.

    Raises:
        InvalidParameters: The settings name no keys.
    """
    from raincheck.composition.adapters import close_to_plain

    settings = target.settings
    if not settings.encryption.keys:
        raise InvalidParameters("there are no 'keys' in [encryption]: payloads are stored as they are")
    accepting = settings.encryption.model_copy(update={"accept_plain": True})
    async with _opened(target, settings.model_copy(update={"encryption": accepting}), migrate=False) as store:
        return await close_to_plain(store)


@asynccontextmanager
async def _opened(target: Target, settings: Settings | None = None, *, migrate: bool) -> AsyncGenerator[TaskStore]:
    settings = settings or target.settings
    state = settings.state.model_copy(update={"migrate": "auto" if migrate else "check"})
    # With another engine an insert would also hand a task to the queue.
    execution = settings.execution.model_copy(update={"engine": "local", "queue_url": ""})
    store = target.new_store(settings.model_copy(update={"state": state, "execution": execution}))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _rights(store: TaskStore) -> Finding:
    """Write a task that no worker runs, change it and remove it."""
    now = await store.time() or utc_now()
    task = Task(
        task_ref=new_task_ref(),
        scope="raincheck store check",
        operation_type="raincheck.store.check",
        arguments={},
        created_at=now,
        updated_at=now,
        deadline_at=now + timedelta(minutes=1),
        ttl_seconds=1,
    )
    done = "written"
    try:
        await store.insert(task)
        done = "changed"
        # Its retention is over with its end.
        await store.replace(replace(transition(task, Cancel(), now), expires_at=now))
        done = "removed"
        gone = await _removed(store, task.task_ref, now)
    except StoreError as error:
        return Finding(level="failed", name="rights", told=f"a task could not be {done}: {error.message}")
    if not gone:
        return Finding(level="warning", name="rights", told="a task was written, and not removed at once")
    return Finding(level="ok", name="rights", told="a task was written, changed and removed")


async def _removed(store: TaskStore, task_ref: str, now: datetime) -> bool:
    for _ in range(_PURGES):
        await store.purge(now + timedelta(seconds=1), _PURGE_STEP)
        if await store.get(task_ref) is None:
            return True
        await asyncio.sleep(0.02)
    return False


async def _clock(store: TaskStore) -> Finding:
    asked = utc_now()
    there = await store.time()
    if there is None:
        return Finding(level="ok", name="clock", told="this machine's")
    apart = (there - asked - (utc_now() - asked) / 2).total_seconds()
    told = f"the store's own, {abs(apart) * 1000:.0f} ms {'ahead of' if apart > 0 else 'behind'} this machine's"
    # Nothing depends on it but what people read in two logs.
    return Finding(level="warning" if abs(apart) > _CLOCKS_APART_SECONDS else "ok", name="clock", told=told)


def _kept(settings: Settings) -> str:
    if settings.state.provider == "sqlite" and settings.state.synchronous == "normal":
        return "what was acknowledged survives the death of a process; a power cut may take the last writes"
    return "what was acknowledged survives a restart of the store"


@contextmanager
def _listening(told: list[logging.LogRecord]) -> Generator[None]:
    """Gather what the stores say in the log."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record)

    stores, listener = logging.getLogger("raincheck.stores"), Listener(logging.INFO)
    level, propagate = stores.level, stores.propagate
    stores.addHandler(listener)
    stores.setLevel(logging.INFO)
    stores.propagate = False
    try:
        yield
    finally:
        stores.removeHandler(listener)
        stores.setLevel(level)
        stores.propagate = propagate
