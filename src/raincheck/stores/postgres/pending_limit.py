"""The pending limit on PostgreSQL: counted and inserted in one transaction under an advisory lock.

Who inserts with a limit locks that limit before it counts, and has no other lock yet: no two wait for each other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from raincheck.errors import QueueFull
from raincheck.ports.task_store import PendingLimit
from raincheck.stores.postgres.connections import Connection
from raincheck.stores.postgres.rows import storable
from raincheck.stores.postgres.writes import Cursor, Insert, InsertMany, patience, refs, refuse
from raincheck.stores.shared.pending_limit import check_pending_limit

# Scopes share locks, so that a transaction needs few.
_LOCKS_OF_SCOPES = 64


class LimitedInsert(InsertMany):
    """Serves inserts that have a `room`."""

    async def write(self, connection: Connection, inserts: Collection[Insert], seconds: float) -> list[str]:
        """Write those for which there is room; the others are told."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        created: list[str] | None = None
        # The lock and the counts are one way to the server and back, the inserts and the commit another.
        async with connection.pipeline() as pipeline:
            async with connection.transaction():
                counted = await self._count(connection, inserts, seconds)
                await pipeline.sync()
                decision = _Decision(inserts, await counted.fetchall())
                cursor = await self.send(connection, decision.admitted, until - loop.time())
                if self.companions:
                    await pipeline.sync()
                    created = await refs(cursor)
                    await self.accompany(connection, decision.admitted, created)
            if created is None:
                created = await refs(cursor)
        for insert, error in decision.full:
            refuse(insert, error)
        return created

    async def _count(self, connection: Connection, inserts: Collection[Insert], seconds: float) -> Cursor:
        await connection.execute(
            self.sql["lock_room"], {"locks": sorted(set(self._locks(inserts))), "patience": patience(seconds)}
        )
        most = _limits_of_scopes(inserts)
        wanted = Counter(storable(insert.task.scope) for insert in inserts)
        return await connection.execute(
            self.sql["room"],
            {
                "scopes": list(most),
                "most": list(most.values()),
                "wanted": [wanted[scope] for scope in most],
                "refs": [insert.ref for insert in inserts],
                "digests": [insert.digest for insert in inserts if insert.digest is not None],
            },
        )

    def _locks(self, inserts: Collection[Insert]) -> Iterable[int]:
        for insert in inserts:
            total, per_scope = insert.pending_limit or PendingLimit()
            if total is not None:
                yield _lock_of(self.schema, "all")
            if per_scope is not None:
                scope = hashlib.sha256(insert.task.scope.encode(errors="surrogatepass")).digest()[0] % _LOCKS_OF_SCOPES
                yield _lock_of(self.schema, str(scope))


class _Decision:
    """Which of these inserts are to be written, given what is stored.

    Attributes:
        admitted: To be written.
        full: For which there is no room, and what they are told.
    """

    def __init__(self, inserts: Collection[Insert], facts: Collection[tuple[Any, ...]]) -> None:
        self.admitted: list[Insert] = []
        self.full: list[tuple[Insert, QueueFull]] = []
        self._in_all = next(number for what, _, number in facts if what == "in_all")
        self._of_scope = Counter({name: number for what, name, number in facts if what == "of_scope"})
        self._stored = {name for what, name, _ in facts if what == "ref"}
        self._keys = {name: expires_at for what, name, expires_at in facts if what == "key"}
        for insert in inserts:
            if not self._is_there(insert):
                self._admit(insert)

    def _is_there(self, insert: Insert) -> bool:
        if insert.ref in self._stored:
            return True
        return insert.digest in self._keys and insert.finds_taken(self._keys[insert.digest])

    def _admit(self, insert: Insert) -> None:
        scope = storable(insert.task.scope)
        try:
            check_pending_limit(insert.pending_limit or PendingLimit(), self._in_all, self._of_scope[scope])
        except QueueFull as error:
            self.full.append((insert, error))
            return
        self._in_all += 1
        self._of_scope[scope] += 1
        if insert.digest is not None:
            self._keys[insert.digest] = None
        self.admitted.append(insert)


def _limits_of_scopes(inserts: Collection[Insert]) -> dict[str, int]:
    """How far to count: the largest limit of each scope that has one."""
    most: dict[str, int] = {}
    for insert in inserts:
        if insert.pending_limit is not None and insert.pending_limit.per_scope is not None:
            scope = storable(insert.task.scope)
            most[scope] = max(most.get(scope, 0), insert.pending_limit.per_scope)
    return most


def _lock_of(schema: str, limit: str) -> int:
    digest = hashlib.sha256(f"raincheck:{schema}:room:{limit}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
