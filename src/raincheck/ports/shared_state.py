"""Shared state of several processes: one record each, with a cached read and compare-and-set."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from raincheck.ports.records import Record, RecordStore, record_key
from raincheck.timing.clock import monotonic

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_TRIES = 20
_CONFLICT_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class StateKind(Generic[_T]):
    """One kind of state, and its JSON.

    Attributes:
        kind: The kind of its records.
        what: Its name in the log.
        empty: The state where there is no record, by the name of what it is about.
        decode: The state of a record's value; raises where the value is damaged.
        encode: The value.
    """

    kind: str
    what: str
    empty: Callable[[str], _T]
    decode: Callable[[Any], _T]
    encode: Callable[[_T], Any]


class SharedState(Generic[_T]):
    """The state of one thing, as one process reads and writes it.

    A value is never changed in place. Damage begins anew, with a warning.

    Args:
        name: What the state is about; part of the record's key.

    Attributes:
        asked_at: When the store was last asked, whether it answered or not; on the monotonic clock.
        read_at: From when the value is; minus infinity while nothing was read.
    """

    def __init__(self, store: RecordStore, clock: Callable[[], datetime], kind: StateKind[_T], name: str) -> None:
        self._store = store
        self._clock = clock
        self._kind = kind
        self._name = name
        self._empty = kind.empty(name)
        self._value = self._empty
        self._expires_at: datetime | None = None
        self._version = 0
        self._lock = asyncio.Lock()
        self.asked_at = self.read_at = float("-inf")

    @property
    def value(self) -> _T:
        """The state as it was last read or written here; the empty one once its record has expired."""
        expired = self._expires_at is not None and self._expires_at <= self._clock()
        return self._empty if expired else self._value

    async def read(self, *, known_seconds: float = 0.0) -> _T:
        """The state, from the store where what is known is older than that.

        Raises:
            StoreError: The store cannot be asked.
        """
        if monotonic() - self.read_at > known_seconds:
            async with self._lock:
                if monotonic() - self.read_at > known_seconds:
                    await self._read()
        return self.value

    async def write(self, value: _T, lasts: timedelta) -> bool:
        """Write the state if the store still has what is known; False: another process wrote, and that is known now.

        Raises:
            StoreError: The store cannot be asked, or may have written.
        """
        # The version is the one that the value was made from, whatever another writer here does meanwhile.
        record = Record(
            kind=self._kind.kind,
            key=record_key(self._name),
            value=self._kind.encode(value),
            version=self._version + 1,
            expires_at=self._clock() + lasts,
        )
        async with self._lock:
            if self._version != record.version - 1:
                return False
            if await self._store.put_record(record):
                self._value, self._version, self._expires_at = value, record.version, record.expires_at
                self.asked_at = self.read_at = monotonic()
                return True
        # A random pause avoids repeated conflicts between the same processes.
        await asyncio.sleep(random.uniform(0, _CONFLICT_SECONDS))  # noqa: S311  no secret
        await self.read()
        return False

    async def update(self, change: Callable[[_T], _T], lasts: timedelta) -> bool:
        """Write what `change` makes of the stored state; False: other processes wrote at each of some twenty tries.

        Raises:
            StoreError: The store cannot be asked, or may have written.
        """
        await self.read()
        for _ in range(_TRIES):
            if await self.write(change(self.value), lasts):
                return True
        return False

    async def _read(self) -> None:
        self.asked_at = asked_at = monotonic()
        record = await self._store.get_record(self._kind.kind, record_key(self._name))
        self._value, self._version, self._expires_at = self._empty, 0, None
        if record is not None:
            self._version, self._expires_at = record.version, record.expires_at
            try:
                self._value = self._kind.decode(record.value)
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                extra = {"kind": self._kind.kind, "name_of_state": self._name}
                logger.warning("%s is not readable and begins anew: %s", self._kind.what, error, extra=extra)
        self.read_at = asked_at
