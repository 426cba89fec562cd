"""Watches on tasks: one subscription to the store serves every waiter of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextvars import Context
from itertools import chain
from types import TracebackType
from typing import Protocol

from raincheck.domain.task import Task
from raincheck.errors import StoreError
from raincheck.ports.task_store import TaskStore

logger = logging.getLogger(__name__)

_LINGER_SECONDS = 2.0
_MOST_WHOLE = 16


class Observer(Protocol):
    """Hears of a task's changes.

    Attributes:
        task_ref: Which task.
        version: The last version it knows; it is told of later ones only.
    """

    task_ref: str
    version: int

    def notify(self, task: Task) -> None:
        """A later version is there."""
        ...


class TaskWatch:
    """A watch over one task, as a context manager: changes from its beginning on are not missed.

    Enter it, read the task, then `await next_change`: what changed after the entering is there.

    Attributes:
        ended: Whether nothing more will be heard: the service stops.
    """

    def __init__(self, changes: ChangeNotifier, task_ref: str) -> None:
        self._changes = changes
        self.task_ref = task_ref
        self.version = 0
        self.ended = False
        self._latest: Task | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def latest(self) -> Task | None:
        """The last change that was heard of and not yet taken, later than what was seen; None without one."""
        return self._latest if self._latest is not None and self._latest.version > self.version else None

    def __enter__(self) -> TaskWatch:
        self._changes.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._changes.remove(self)

    def seen(self, task: Task) -> None:
        """The caller knows this version; only later ones are news."""
        self.version = max(self.version, task.version)

    async def next_change(self, seconds: float | None) -> Task | None:
        """The task after its next change, or None when `seconds` went by without one, or the service stopped."""
        if (latest := self._take()) is not None or self.ended:
            return latest
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._waiter
        except TimeoutError:
            return None
        finally:
            self._waiter = None
        return self._take()

    def notify(self, task: Task) -> None:
        """See `Observer.notify`."""
        self._latest = task
        self._wake()

    def end(self) -> None:
        """End the watch: its waiter returns."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> Task | None:
        latest, self._latest = self._latest, None
        if latest is not None and latest.version > self.version:
            self.version = latest.version
            return latest
        return None


class _Follower:
    """One task's place in a feed."""

    def __init__(self, feed: ChangeFeed, task_ref: str) -> None:
        self._feed = feed
        self.task_ref = task_ref
        self.version = 0

    def notify(self, task: Task) -> None:
        self.version = task.version
        self._feed.put(task)


class ChangeFeed:
    """The changes of several tasks, as a context manager; what is not taken in time is replaced by what is newer.

    Of many that wait only a few are kept whole: for the others `next` names the task, which is to be read again.
    """

    def __init__(self, changes: ChangeNotifier, task_refs: Collection[str]) -> None:
        self._changes = changes
        self._followers = [_Follower(self, task_ref) for task_ref in dict.fromkeys(task_refs)]
        self._news: dict[str, Task | None] = {}
        self._arrived = asyncio.Event()

    def __enter__(self) -> ChangeFeed:
        for follower in self._followers:
            self._changes.add(follower)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for follower in self._followers:
            self._changes.remove(follower)

    def put(self, task: Task) -> None:
        """News of a task; older than what waits already, it is dropped."""
        task_ref = task.task_ref
        waiting = self._news.get(task_ref)
        if task_ref not in self._news:
            self._news[task_ref] = task if len(self._news) < _MOST_WHOLE else None
        elif waiting is not None and waiting.version < task.version:
            self._news[task_ref] = task
        self._arrived.set()

    def name(self, task_ref: str) -> None:
        """There may be news of a task, which is to be read."""
        self._news[task_ref] = None
        self._arrived.set()

    async def next(self) -> Task | str:
        """The next task that changed, or its ref where it is to be read."""
        while not self._news:
            self._arrived.clear()
            await self._arrived.wait()
        task_ref = next(iter(self._news))
        return self._news.pop(task_ref) or task_ref


class ChangeNotifier:
    """The process's one listener to the store, and its distributor.

    It listens while there is a watch, and a little longer: a store that is polled costs nothing when idle.
    """

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._watches: dict[str, list[Observer]] = {}
        self._listening = False
        self._stopped = False
        self._unsubscribe: Callable[[], None] | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._dirty: set[str] = set()
        self._all_dirty = False
        self._refresher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the store is open."""
        self._listening, self._stopped = True, False
        if self._watches:
            self._subscribe()

    async def stop(self) -> None:
        """Stop listening. Watches, under way or begun later, end with what they know: their callers are answered."""
        self._listening, self._stopped = False, True
        for watch in tuple(chain.from_iterable(self._watches.values())):
            if isinstance(watch, TaskWatch):
                watch.end()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self._rest()
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
            self._refresher = None

    def _subscribe(self) -> None:
        if self._unsubscribe is None and self._listening:
            self._unsubscribe = self._store.subscribe(self._changed)

    def _rest_if_unwatched(self) -> None:
        self._resting = None
        if not self._watches:
            self._rest()

    def _rest(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def watch(self, task_ref: str) -> TaskWatch:
        """A watch over that task, to be entered."""
        return TaskWatch(self, task_ref)

    def feed(self, task_refs: Collection[str]) -> ChangeFeed:
        """A feed of those tasks' changes, to be entered."""
        return ChangeFeed(self, task_refs)

    def add(self, watch: Observer) -> None:
        """Begin to tell this observer."""
        self._watches.setdefault(watch.task_ref, []).append(watch)
        self._subscribe()
        if self._stopped and isinstance(watch, TaskWatch):
            watch.end()

    def remove(self, watch: Observer) -> None:
        """Tell it no more."""
        watches = self._watches[watch.task_ref]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.task_ref]
        if not self._watches and self._resting is None and self._listening:
            self._resting = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._rest_if_unwatched)

    def _changed(self, change: Task | str | None) -> None:
        if isinstance(change, Task):
            for watch in tuple(self._watches.get(change.task_ref, ())):
                if change.version > watch.version:
                    watch.notify(change)
            return
        if change is None and self._watches:
            self._all_dirty = True
        elif change in self._watches:
            self._dirty.add(change)
        else:
            return
        if self._refresher is None or self._refresher.done():
            self._refresher = asyncio.create_task(self._refresh(), name="raincheck-changes", context=Context())

    async def _refresh(self) -> None:
        while self._dirty or self._all_dirty:
            wanted = set(self._watches) if self._all_dirty else self._dirty & self._watches.keys()
            self._dirty, self._all_dirty = set(), False
            try:
                await self._refresh_these(wanted)
            except StoreError as error:
                logger.warning("cannot look for changes of other processes: %s", error.message)
                self._all_dirty = True
                await asyncio.sleep(1.0)

    async def _refresh_these(self, task_refs: Collection[str]) -> None:
        versions = await self._store.versions(task_refs)
        for task_ref, version in versions.items():
            if all(watch.version >= version for watch in self._watches.get(task_ref, ())):
                continue
            task = await self._store.get(task_ref)
            if task is not None:
                self._changed(task)
