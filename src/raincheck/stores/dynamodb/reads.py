"""Reading tasks: always the tasks' own items, as they are now, and then what is kept apart of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raincheck.domain.task import Task, TaskStatus
from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.stores.dynamodb.client import Calls, together
from raincheck.stores.dynamodb.index_queries import Merged, Range
from raincheck.stores.dynamodb.items import (
    KEY,
    PAYLOADS,
    ROOMED,
    Item,
    digest,
    pointers,
    ref_of,
    storable,
    task_from,
    task_key,
)
from raincheck.stores.dynamodb.payload_chunks import Parts, read_items

logger = logging.getLogger(__name__)

# A payload may be replaced between the reading of the item that points to it and its own; as often as that in a row?
_REPLACED = 10


class Apart(NamedTuple):
    """A payload that is kept apart: what it is, in short, and the pointer to it."""

    digest: str
    pointer: str

    @classmethod
    def of(cls, body: str, pointer: str) -> Apart:
        """A payload's JSON, and its pointer."""
        return cls(digest(body), pointer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What this process last saw of a task.

    Attributes:
        version, status, roomed: As they were.
        apart: Of what a task may go on with unchanged, by its name in `PAYLOADS`: what is kept apart.
    """

    version: int
    status: TaskStatus
    roomed: bool = False
    apart: Mapping[str, Apart] = field(default_factory=dict[str, Apart])


class SeenTasks:
    """What was last seen of the latest tasks: hints that spare requests. Writes have their conditions all the same."""

    KEPT = ("inputs", "checkpoint")
    _MOST = 10_000

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def put(self, task: Task, *, roomed: bool, apart: Mapping[str, Apart]) -> None:
        """This is the task now."""
        self._seen[task.task_ref] = Seen(version=task.version, status=task.status, roomed=roomed, apart=apart)
        self._seen.move_to_end(task.task_ref)
        if len(self._seen) > self._MOST:
            self._seen.popitem(last=False)

    def before(self, task: Task) -> Seen | None:
        """The version before this one, if it was seen."""
        seen = self._seen.get(task.task_ref)
        return seen if seen is not None and seen.version == task.version - 1 else None

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()


class Reads:
    """Tasks out of the table."""

    def __init__(self, calls: Calls, parts: Parts, seen: SeenTasks) -> None:
        self._calls = calls
        self._parts = parts
        self._seen = seen

    async def item(self, task_ref: str) -> Item | None:
        """A task's item."""
        if not storable(task_ref):
            return None
        answer = await self._calls.on_table("get_item", Key=task_key(task_ref), ConsistentRead=True)
        return answer.get("Item")

    async def task(self, task_ref: str) -> Task | None:
        """A task."""
        item = await self.item(task_ref)
        return None if item is None else await self.whole(item)

    async def items(self, task_refs: Collection[str], *attributes: str) -> dict[str, Item]:
        """Tasks' items by their refs, those that exist; only these attributes of them."""
        keys = [task_key(task_ref) for task_ref in dict.fromkeys(task_refs) if storable(task_ref)]
        found = await read_items(self._calls, keys, attributes=attributes) if keys else []
        return {ref_of(item): item for item in found}

    async def whole(self, item: Item) -> Task | None:
        """The task of an item, or of a later one if it was changed meanwhile; None if it was removed meanwhile.

        Raises:
            StoreUnusable: A part of it is lost.
        """
        tasks, lost = await self._complete([item], lambda _: True)
        if lost:
            raise StoreUnusable(f"{self._calls.connection.place} has lost a part of the task {lost[0]}.")
        return tasks[0] if tasks else None

    async def wholes(self, items: Sequence[Item], accept: Callable[[Item], bool]) -> list[Task]:
        """The tasks of these items; of one that was changed meanwhile the later one, if it is acceptable too. One with
        a lost part is left out, so that it does not stand in the way of the others."""
        tasks, lost = await self._complete(items, accept)
        for task_ref in lost:
            logger.error("%s has lost a part of a task", self._calls.connection.place, extra={"task_ref": task_ref})
        return tasks

    async def _complete(self, items: Sequence[Item], accept: Callable[[Item], bool]) -> tuple[list[Task], list[str]]:
        current = {ref_of(item): item for item in items}
        bodies: dict[str, str | None] = {}
        lost: list[str] = []
        for _ in range(_REPLACED):
            wanted = {pointer for item in current.values() for pointer in pointers(item)} - bodies.keys()
            bodies |= await self._parts.read(wanted) if wanted else {}
            broken = [
                task_ref
                for task_ref, item in current.items()
                if any(bodies[pointer] is None for pointer in pointers(item))
            ]
            if not broken:
                return [self._task(item, bodies) for item in current.values()], lost
            later = await self.items(broken)
            for task_ref in broken:
                before, item = current[task_ref], later.get(task_ref)
                if item is None or not accept(item):
                    del current[task_ref]
                elif pointers(item) == pointers(before):
                    # A payload is removed after the last item that pointed to it, and never written again.
                    lost.append(task_ref)
                    del current[task_ref]
                else:
                    current[task_ref] = item
        raise StoreUnavailable(f"{self._calls.connection.place} is busy: a task changes faster than it can be read.")

    async def chosen(
        self,
        ranges: Sequence[Range],
        limit: int,
        accept: Callable[[Item], bool],
        *attributes: str,
        further: Callable[[], Coroutine[Any, Any, Sequence[Range]]] | None = None,
    ) -> list[Item]:
        """The first items of the merged ranges, and of `further` ones that are asked for meanwhile, that are acceptable
        as they are now; only these attributes of them."""
        found: list[Item] = []
        if limit <= 0 or not ranges:
            return found
        merged = Merged(self._calls, ranges, limit)
        if further is not None:
            _, more = await together([_filled(merged), further()])
            merged.add(more)
        while len(found) < limit:
            names = await merged.take(limit - len(found))
            if not names:
                break
            read = await read_items(self._calls, [{KEY: {"S": name}} for name in names], attributes=attributes)
            items = {item[KEY]["S"]: item for item in read}
            found += [items[name] for name in names if name in items and accept(items[name])]
        return found

    def _task(self, item: Item, bodies: Mapping[str, str | None]) -> Task:
        texts = {
            name: item[name]["S"] if name in item else bodies[item[f"{name}_at"]["S"]] if f"{name}_at" in item else None
            for name in PAYLOADS
        }
        task = task_from(item, texts)
        apart = {
            name: Apart.of(body, item[f"{name}_at"]["S"])
            for name in SeenTasks.KEPT
            if f"{name}_at" in item and (body := texts[name]) is not None
        }
        self._seen.put(task, roomed=ROOMED in item, apart=apart)
        return task


async def _filled(merged: Merged) -> Sequence[Range]:
    await merged.fill()
    return ()
