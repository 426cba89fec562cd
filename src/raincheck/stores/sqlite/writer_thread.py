"""The writer thread of a SQLite store: commits everything that waits in one transaction (group commit)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raincheck.errors import StoreError, StoreUnavailable
from raincheck.stores.sqlite.errors import is_damage, is_locked, needs_new_connection, store_error, was_read_only
from raincheck.stores.sqlite.file import OpenFile, close_file, create_file
from raincheck.stores.sqlite.schema import Migration, connect_writer, grow_wal, migrate, with_retry
from raincheck.stores.sqlite.writes import Transaction, Write

logger = logging.getLogger(__name__)

# Bounds how long the first of a burst waits for the last.
_LARGEST_BATCH = 1000
# An event loop that is blocked closes nothing.
_LET_GO_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterSettings:
    """What a writer needs to know.

    Attributes:
        path: The file.
        synchronous: "full" (durable against power loss) or "normal" (against the death of the process).
        poll_interval: Seconds between looks for commits of other processes.
        busy_seconds: How long a write may wait for another process's lock, what waits before it included.
        migrations: The steps of the schema.
    """

    path: str
    synchronous: Literal["full", "normal"]
    poll_interval: float
    busy_seconds: float
    migrations: Sequence[Migration]


Done = tuple[Write, Any, Exception | None]
"""A write that is over: committed, with its result, or rolled back, with the error."""


class SqliteWriter:
    """The writing thread, from `start` to the end of `stop`.

    Args:
        settings: What it needs to know.
        deliver: Called on the event loop with what is over, in order of commitment, and whether another process has
            committed something before.
        let_go: Called on the event loop to close what other connections this process has.

    Attributes:
        watching: Whether it looks for commits of other processes.
        file: The file that it has open.
    """

    def __init__(
        self,
        settings: WriterSettings,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Sequence[Done], bool], None],
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self.watching = False
        self.file = OpenFile(settings.path)
        self._settings = settings
        self._loop = loop
        self._deliver = deliver
        self._let_go = let_go
        self._queue: queue.SimpleQueue[tuple[float, Write] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._stopping = False
        self._connection: sqlite3.Connection | None = None
        self._data_version = -1
        self._foreign = False
        self._blind = False
        self._started: asyncio.Future[None] = loop.create_future()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="raincheck-sqlite-writer", daemon=True)

    async def start(self) -> None:
        """Open the file, make or upgrade it.

        Raises:
            StoreUnusable: It is damaged, foreign, or of a newer version.
            StoreUnavailable: It cannot be opened now.
        """
        self._thread.start()
        await asyncio.shield(self._started)

    async def stop(self) -> None:
        """Write what waits, then let go of the file and of the thread."""
        with self._gate:
            self._stopping = True
        self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def put(self, write: Write) -> None:
        """Add something to be written. From any thread.

        Raises:
            StoreUnavailable: The writer is stopping.
        """
        with self._gate:
            if self._stopping:
                raise StoreUnavailable("The task store is closed.")
            self._queue.put((time.monotonic(), write))

    def watch(self, watching: bool) -> None:
        """Look for commits of other processes every `poll_interval` seconds, or stop looking."""
        self.watching = watching
        self._queue.put(None)

    def _run(self) -> None:
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - boundary: the opener gets whatever it is
            self._call(resolve, self._started, None, error)
        else:
            self._call(resolve, self._started, None, None)
            self._prepare()
            while self._serve():
                pass
        finally:
            self._disconnect()
            self._call(resolve, self._stopped, None, None)

    def _open(self) -> None:
        settings = self._settings
        create_file(settings.path)
        try:
            connection = self._connected(settings.busy_seconds)
            migrate(connection, settings.path, settings.migrations, busy_seconds=settings.busy_seconds)
        except sqlite3.Error as error:
            raise store_error(error, settings.path) from error
        close_file(settings.path)

    def _prepare(self) -> None:
        settings = self._settings
        if settings.synchronous != "full":
            return
        # It only makes what follows faster: a file that is locked or full now is dealt with by the writes themselves.
        try:
            grow_wal(self._connected(settings.busy_seconds), settings.path, synchronous=settings.synchronous)
        except (sqlite3.Error, OSError, StoreError):
            # A connection that was left with `synchronous` off would lose acknowledged tasks.
            self._disconnect()

    def _serve(self) -> bool:
        try:
            batch = self._waiting()
            # Counted from when it was asked for: who waited for the batch before it must not wait as long again.
            give_up_at = batch[0][0] + self._settings.busy_seconds if batch else 0.0
            done = self._commit([write for _, write in batch], give_up_at) if batch else []
        except queue.Empty:
            done = []
            self._look_in_passing()
        self._finish(done)
        return not self._stopping or not self._queue.empty()

    def _waiting(self) -> list[tuple[float, Write]]:
        first = self._queue.get(timeout=self._settings.poll_interval if self.watching else None)
        batch = [] if first is None else [first]
        with contextlib.suppress(queue.Empty):
            while len(batch) < _LARGEST_BATCH:
                write = self._queue.get_nowait()
                if write is not None:
                    batch.append(write)
        return batch

    def _commit(self, batch: list[Write], give_up_at: float) -> list[Done]:
        try:
            return self._attempt(batch, give_up_at)
        except Exception as error:  # noqa: BLE001 - boundary: it goes to the callers
            self._roll_back(error)
            if len(batch) == 1 or _concerns_all(error):
                return [self._failed(write, error) for write in batch]
        # One of them cannot be written: each by itself, so that the others can.
        done: list[Done] = []
        for index, write in enumerate(batch):
            try:
                done += self._attempt([write], give_up_at)
            except Exception as error:  # noqa: BLE001 - boundary: it goes to the caller
                self._roll_back(error)
                if _concerns_all(error):
                    return [*done, *(self._failed(each, error) for each in batch[index:])]
                done.append(self._failed(write, error))
        return done

    def _attempt(self, batch: list[Write], give_up_at: float) -> list[Done]:
        connection = self._connected(give_up_at - time.monotonic())
        self.file.check()
        with_retry(lambda: connection.execute("BEGIN IMMEDIATE"), give_up_at - time.monotonic())
        self.file.connected()
        if self.watching:
            self._look(connection)
        transaction = Transaction(connection)
        try:
            done: list[Done] = [(write, write.apply(transaction), None) for write in batch]
            transaction.finish()
        finally:
            transaction.close()
        connection.execute("COMMIT")
        self.file.check(written=True)
        return done

    def _failed(self, write: Write, error: Exception) -> Done:
        if isinstance(error, sqlite3.Error):
            mapped = store_error(error, self._settings.path, disk_fails=is_damage(error) and self.file.disk_fails())
            mapped.__cause__ = error
            return write, None, mapped
        return write, None, error

    def _roll_back(self, error: Exception) -> None:
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()
        if isinstance(error, sqlite3.Error) and needs_new_connection(error):
            self._disconnect()
            if was_read_only(error):
                self._begin_afresh()

    def _look(self, connection: sqlite3.Connection) -> None:
        # Of the writing connection, so that our own commits do not count.
        data_version = connection.execute("PRAGMA data_version").fetchall()[0][0]
        if data_version != self._data_version:
            self._data_version = data_version
            self._foreign = True

    def _look_in_passing(self) -> None:
        try:
            connection = self._connected(0.0)
            self.file.check()
            self._look(connection)
        except (sqlite3.Error, StoreError) as error:
            if isinstance(error, sqlite3.Error) and is_locked(error):
                return
            if isinstance(error, sqlite3.Error):
                # Of a file that was taken away, what is open is the last there is.
                self._disconnect()
            if not self._blind:
                logger.warning("cannot look for changes of other processes: %s", error)
            self._blind = True
        else:
            self._blind = False

    def _finish(self, done: list[Done]) -> None:
        foreign, self._foreign = self._foreign, False
        for write, result, error in done:
            if isinstance(write.done, concurrent.futures.Future):
                resolve(write.done, result, error)
        if foreign or done:
            self._call(self._deliver, done, foreign)

    def _connected(self, seconds: float) -> sqlite3.Connection:
        """The connection; where it has to be made, locks are waited for so long."""
        if self._connection is None:
            settings = self._settings
            self.file.check()
            self._connection = connect_writer(
                settings.path,
                latest=settings.migrations[-1].version,
                synchronous=settings.synchronous,
                busy_seconds=seconds,
            )
            self.file.connected()
            self._data_version = -1
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self.file.disconnected()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _begin_afresh(self) -> None:
        """Have every connection of this process closed at once: what SQLite had to open for reading only it keeps for
        all of them, as long as there is one."""
        closed = threading.Event()

        def close() -> None:
            self._let_go()
            closed.set()

        self._call(close)
        closed.wait(_LET_GO_SECONDS)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        # A loop that was closed without closing the store hears nothing.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def resolve(future: asyncio.Future[Any] | concurrent.futures.Future[Any], result: Any, error: Exception | None) -> None:
    """Give the result or the error to the caller, where it still waits."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _concerns_all(error: Exception) -> bool:
    return isinstance(error, StoreError) or (
        isinstance(error, sqlite3.Error) and (is_locked(error) or needs_new_connection(error))
    )
