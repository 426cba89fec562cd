"""Lease renewals: on a blocking connection of their own, from a thread, since the event loop may be blocked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

from raincheck.errors import StoreUnavailable
from raincheck.stores.postgres.connections import Address, cut
from raincheck.stores.postgres.errors import may_pass, store_error
from raincheck.stores.postgres.rows import storable, text_from

if TYPE_CHECKING:
    from collections.abc import Generator

_PAUSE_SECONDS = 0.1


class Renewer:
    """Renews leases from any thread but the event loop's."""

    def __init__(self, address: Address, sql: Mapping[str, LiteralString]) -> None:
        self._address = address
        self._sql = sql
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._closed = False

    def renew(self, worker_id: str, leases: Mapping[str, int], until: int, length: int | None) -> set[str]:
        """See `TaskStore.renew`; `until`, and `length` from the server's now on, in microseconds."""
        give_up_at = time.monotonic() + self._address.timeout_seconds
        rows = json.dumps([{"task_ref": storable(ref), "fence": fence} for ref, fence in leases.items()])
        parameters = {"leases": rows, "worker_id": storable(worker_id), "until": until, "length": length}
        if not self._lock.acquire(timeout=self._address.timeout_seconds):
            raise StoreUnavailable(f"The task store {self._address.place} did not answer in time.")
        try:
            held = self._with_retry(parameters, give_up_at)
        finally:
            self._lock.release()
        return leases.keys() - {text_from(ref) for ref in held}

    def close(self) -> None:
        """Let go of the connection; a renewal under way fails. Blocking, at most for one attempt."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            cut(connection)
        with self._lock:
            self._disconnect()

    def _with_retry(self, parameters: Mapping[str, Any], give_up_at: float) -> set[str]:
        while True:
            try:
                return self._attempt(parameters, give_up_at)
            except (psycopg.Error, TimeoutError, OSError) as error:
                self._disconnect()
                # A renewal may be made twice.
                if self._closed or not may_pass(error) or time.monotonic() + _PAUSE_SECONDS >= give_up_at:
                    raise store_error(error, self._address.place) from error
            time.sleep(_PAUSE_SECONDS)

    def _attempt(self, parameters: Mapping[str, Any], give_up_at: float) -> set[str]:
        if self._closed:
            raise StoreUnavailable(f"The task store {self._address.place} is not open.")
        if self._connection is None:
            self._connection = self._connect(give_up_at)
        seconds = min(self._address.patience_seconds, give_up_at - time.monotonic())
        with _cut_off_after(self._connection, seconds):
            return {row[0] for row in self._connection.execute(self._sql["renew"], parameters).fetchall()}

    def _connect(self, give_up_at: float) -> psycopg.Connection[tuple[Any, ...]]:
        seconds = max(1, int(give_up_at - time.monotonic()))
        parameters: dict[str, Any] = {**self._address.parameters, "connect_timeout": seconds}
        connection = psycopg.Connection[tuple[Any, ...]].connect(autocommit=True, prepare_threshold=None, **parameters)
        settings = {"pid": connection.info.backend_pid, "settings": self._address.session}
        try:
            with _cut_off_after(connection, self._address.patience_seconds):
                connection.execute(self._sql["arrive"], settings)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@contextmanager
def _cut_off_after(connection: psycopg.Connection[Any], seconds: float) -> Generator[None]:
    late = threading.Event()

    def end() -> None:
        late.set()
        cut(connection)

    timer = threading.Timer(max(0.0, seconds), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        timer.join()
