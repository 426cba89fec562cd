"""Inserts and replacements on PostgreSQL: each kind goes together, in one statement that commits by itself.

A connection that is lost while a statement is committed leaves it open whether it was. The same is then sent again:
what an insert wrote is known by its task_ref, what a replacement wrote by its change_id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, LiteralString, cast

from raincheck.errors import StoreError, StoreUnavailable
from raincheck.store import Companion, Inserted
from raincheck.stores.postgres_connections import Connection
from raincheck.stores.postgres_lanes import Request
from raincheck.stores.postgres_rows import insert_row, key_digest, replace_row, storable, task_from
from raincheck.task import Task

__all__ = ["Insert", "InsertMany", "Replace", "ReplaceMany", "shard"]

_SHARDS = 64
# Of the time there is: the server is to give up first, so that its answer is known.
_PATIENCE = 0.8
_TAKEN = "a task of that task_ref is stored already"
_CHANGED_SINCE = "the connection was lost, and the task was changed by others since"


def shard() -> int:
    """Which of the counters a transaction adds to."""
    return random.randrange(_SHARDS)  # noqa: S311 - not for secrets


class Insert(Request):
    """`TaskStore.insert`."""

    __slots__ = ("companion", "digest", "ref", "row", "task")

    def __init__(self, task: Task, companion: Companion | None, done: asyncio.Future[Inserted]) -> None:
        self.task = task
        self.ref = storable(task.task_ref)
        self.row = insert_row(task)
        self.digest = None if task.idempotency_key is None else key_digest(task.scope, task.idempotency_key)
        self.companion = companion(task) if companion is not None else None
        super().__init__(done, len(self.row))

    def wrote(self, stored: Task) -> bool:
        """Whether that task, of the same task_ref, is this insert's, whatever became of it since."""
        mine = self.task
        return (mine.scope, mine.created_at, mine.fingerprint) == (stored.scope, stored.created_at, stored.fingerprint)


class InsertMany:
    """Serves inserts.

    Args:
        created: Called with each task that was made, when it is durable.
    """

    def __init__(
        self, sql: Mapping[str, LiteralString], place: str, created: Callable[[Task], None], *, companions: bool
    ) -> None:
        self._sql = sql
        self._place = place
        self._created = created
        self._companions = companions

    async def __call__(self, connection: Connection, inserts: Sequence[Insert], seconds: float) -> None:
        """Answer them; one whose key was given up in the meantime is left without an answer."""
        # A ref can be in a statement once; of the others, the first is stored by then.
        first = {insert.ref: insert for insert in reversed(inserts)}
        send = self._with_companions if self._companions else self._send
        created = set(await send(connection, first.values(), seconds))
        refused: list[Insert] = []
        for insert in inserts:
            if insert.ref in created and first[insert.ref] is insert:
                self._answer(insert, Inserted(insert.task, created=True))
            else:
                refused.append(insert)
        if refused:
            await self._refer(connection, refused)

    async def _send(self, connection: Connection, inserts: Collection[Insert], seconds: float) -> list[str]:
        cursor = await connection.execute(self._sql["insert"], _parameters(inserts, seconds))
        return [row[0] for row in await cursor.fetchall()]

    async def _with_companions(self, connection: Connection, inserts: Collection[Insert], seconds: float) -> list[str]:
        # Two ways to the server and back: the inserts, then what goes beside those that made a task.
        async with connection.pipeline(), connection.transaction():
            created = await self._send(connection, inserts, seconds)
            made = set(created)
            for insert in inserts:
                if insert.ref in made and insert.companion is not None:
                    statement, parameters = insert.companion
                    await connection.execute(cast("LiteralString", statement), parameters)
        return created

    async def _refer(self, connection: Connection, refused: Sequence[Insert]) -> None:
        """Answer with the tasks that hold the keys."""
        by_ref, by_digest = await self._holders(connection, refused)
        for insert in refused:
            same = by_ref.get(insert.ref)
            held = None if insert.digest is None else by_digest.get(insert.digest)
            if same is not None and insert.doubtful and insert.wrote(same):
                self._answer(insert, Inserted(insert.task, created=True))
            elif same is not None:
                _refuse(insert, StoreError(f"The task store {self._place} refuses a value: {_TAKEN}."))
            elif held is not None and (held.expires_at is None or held.expires_at > insert.task.created_at):
                self._answer(insert, Inserted(held, created=False))

    async def _holders(
        self, connection: Connection, refused: Sequence[Insert]
    ) -> tuple[dict[str, Task], dict[str, Task]]:
        refs = [insert.ref for insert in refused]
        digests = [insert.digest for insert in refused if insert.digest is not None]
        cursor = await connection.execute(self._sql["holders"], {"refs": refs, "digests": digests})
        by_ref: dict[str, Task] = {}
        by_digest: dict[str, Task] = {}
        for digest, *row in await cursor.fetchall():
            task = task_from(tuple(row))
            by_ref[storable(task.task_ref)] = task
            if digest is not None:
                by_digest[digest] = task
        return by_ref, by_digest

    def _answer(self, insert: Insert, inserted: Inserted) -> None:
        if inserted.created:
            self._created(insert.task)
        if not insert.done.done():
            insert.done.set_result(inserted)


class Replace(Request):
    """`TaskStore.replace`."""

    __slots__ = ("change_id", "ref", "row", "seen_lease", "task")

    def __init__(self, task: Task, done: asyncio.Future[bool], seen_lease: int | None) -> None:
        self.task = task
        self.ref = storable(task.task_ref)
        self.change_id = random.getrandbits(62)
        self.seen_lease = seen_lease
        self.row = replace_row(task, self.change_id, seen_lease)
        super().__init__(done, len(self.row))


class ReplaceMany:
    """Serves replacements.

    Args:
        replaced: Called with each task that was written, when it is durable.
    """

    def __init__(self, sql: Mapping[str, LiteralString], place: str, replaced: Callable[[Task], None]) -> None:
        self._sql = sql
        self._place = place
        self._replaced = replaced

    async def __call__(self, connection: Connection, replacements: Sequence[Replace], seconds: float) -> None:
        """Answer them; a second version of a task is left without an answer, for its turn."""
        first = {each.ref: each for each in reversed(replacements)}
        cursor = await connection.execute(self._sql["replace"], _parameters(first.values(), seconds))
        changed = {row[0] for row in await cursor.fetchall()}
        doubtful: list[Replace] = []
        for each in replacements:
            sent = first[each.ref]
            if sent is each and each.ref in changed:
                self._answer(each, True)
            elif sent is each or (sent.task.version == each.task.version and _speaks_for_all(sent, changed)):
                if each.doubtful:
                    doubtful.append(each)
                else:
                    self._answer(each, False)
        if doubtful:
            await self._resolve(connection, doubtful)

    async def _resolve(self, connection: Connection, doubtful: Sequence[Replace]) -> None:
        cursor = await connection.execute(self._sql["last_changes"], {"refs": [each.ref for each in doubtful]})
        last = {ref: (version, change_id) for ref, version, change_id in await cursor.fetchall()}
        for each in doubtful:
            version, change_id = last.get(each.ref, (0, 0))
            if change_id == each.change_id:
                self._answer(each, True)
            elif version <= each.task.version:
                self._answer(each, False)
            else:
                _refuse(each, StoreUnavailable(f"The task store {self._place} does not answer: {_CHANGED_SINCE}."))

    def _answer(self, replacement: Replace, result: bool) -> None:
        if result:
            self._replaced(replacement.task)
        if not replacement.done.done():
            replacement.done.set_result(result)


def _speaks_for_all(sent: Replace, changed: Collection[str]) -> bool:
    """Whether its rivals for the same version are refused with it: one of them was written, or none can be."""
    return sent.ref in changed or sent.seen_lease is None


def _parameters(writes: Collection[Insert] | Collection[Replace], seconds: float) -> dict[str, Any]:
    patience = max(1, int(seconds * 1000 * _PATIENCE))
    return {"rows": f"[{','.join(each.row for each in writes)}]", "shard": shard(), "patience": str(patience)}


def _refuse(request: Request, error: StoreError) -> None:
    if not request.done.done():
        request.done.set_exception(error)
