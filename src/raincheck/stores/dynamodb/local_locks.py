"""Local locks: requests of this process that would conflict in DynamoDB wait here, at no cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from raincheck.stores.dynamodb.client import Calls


class LocalLocks:
    """Locks by name, which exist while they are held or waited for."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def alone(self, *names: str) -> AsyncGenerator[None]:
        """Be the only one with each of these names. Callers that take several at once give them in one common order.

        Raises:
            StoreUnavailable: See `Calls.turn`.
        """
        for name in names:
            self._locks.setdefault(name, asyncio.Lock())
            self._users[name] = self._users.get(name, 0) + 1
        held: list[asyncio.Lock] = []
        try:
            for name in names:
                await self._calls.turn(self._locks[name])
                held.append(self._locks[name])
            yield
        finally:
            for lock in held:
                lock.release()
            for name in names:
                self._users[name] -= 1
                if not self._users[name]:
                    del self._users[name], self._locks[name]
