"""Delivery administration: lists pending and dead deliveries, and retries them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import datetime

from raincheck.egress.errors import RequestRefused
from raincheck.egress.policy import Target
from raincheck.errors import CallError
from raincheck.ports.records import Record, RecordQuery
from raincheck.ports.task_store import TaskStore
from raincheck.timing.clock import utc_now
from raincheck.webhooks.delivery import DEAD, PENDING, Delivery

_PAGE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A delivery as an operator may see it: no address beyond the host, no payload.

    Attributes:
        state: "pending" or "dead".
        hosts: Whom it tells: `operation:` is the operation's own webhook.
        due_at: When it is tried next, or (where an attempt is under way) would be; None for a dead one.
    """

    state: str
    delivery: Delivery
    hosts: tuple[str, ...]
    due_at: datetime | None

    @classmethod
    def of(cls, record: Record) -> Entry:
        """What is shown of a record."""
        delivery = Delivery.of(record)
        state = "dead" if record.kind == DEAD else "pending"
        return cls(state=state, delivery=delivery, hosts=tuple(map(_host, delivery.targets)), due_at=record.due_at)


class DeliveryAdmin:
    """The operator's view of the deliveries in an open store."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store

    async def list(self, *, states: tuple[str, ...], limit: int) -> list[Entry]:
        """The deliveries in these states (none: all), those that were given up first."""
        found: list[Entry] = []
        for kind, state in ((DEAD, "dead"), (PENDING, "pending")):
            if not states or state in states:
                async for record in self._records(kind):
                    if len(found) == limit:
                        return found
                    found.append(Entry.of(record))
        return found

    async def retry(self, task_ref: str) -> int:
        """Try the deliveries of a task (its ref, or the first characters of one) again, now; how many.

        Raises:
            CallError: There is none, or the characters fit several tasks.
        """
        found = [record async for record in self._of(task_ref)]
        refs = {str(record.value["task_ref"]) for record in found}
        if task_ref in refs:
            found = [record for record in found if record.value["task_ref"] == task_ref]
        elif len(refs) > 1:
            raise CallError(f"deliveries of {len(refs)} tasks begin with {task_ref!r}; give more of the task_ref")
        if not found:
            raise CallError(f"there is no delivery of a task {task_ref[:40]!r}, pending or given up, in this store")
        return sum([await self._again(record) for record in found])

    async def retry_dead(self) -> int:
        """Try everything again that was given up; how many."""
        return sum([await self._again(record) for record in [record async for record in self._records(DEAD)]])

    async def _again(self, record: Record) -> bool:
        now = await self._store.time() or utc_now()
        if record.kind == PENDING:
            # One that is under way may so be made twice; its receiver knows it by its id.
            return await self._store.put_record(replace(record, version=record.version + 1, due_at=now))
        fresh = replace(Delivery.of(record), since=now, attempts=0, died_at=None)
        # Written before the other is removed, so that no death loses both; where it is there already, one was.
        await self._store.put_record(fresh.pending(record.key, version=1, due_at=now))
        return await self._store.remove_record(record)

    async def _of(self, task_ref: str) -> AsyncGenerator[Record]:
        for kind in (DEAD, PENDING):
            async for record in self._records(kind):
                if task_ref and str(record.value["task_ref"]).startswith(task_ref):
                    yield record

    async def _records(self, kind: str) -> AsyncGenerator[Record]:
        after = ""
        while True:
            page = await self._store.records(RecordQuery(kind, after=after, limit=_PAGE))
            for record in page:
                yield record
            if len(page) < _PAGE:
                return
            after = page[-1].key


def _host(target: str | None) -> str:
    if target is None:
        return "operation:"
    try:
        return Target.parse(target).origin
    except RequestRefused:
        return "…"
