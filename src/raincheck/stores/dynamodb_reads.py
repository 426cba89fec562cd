"""Reading tasks: always the tasks' own items, as they are now, and then what is kept apart of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.stores.dynamodb_calls import Calls
from raincheck.stores.dynamodb_items import (
    PAYLOADS,
    Item,
    pointers,
    ref_of,
    storable,
    task_from,
    task_key,
)
from raincheck.stores.dynamodb_parts import Parts, read_items
from raincheck.stores.dynamodb_ranges import Merged, Range
from raincheck.task import InputRequest, Task, TaskStatus

__all__ = ["Reads", "Seen", "SeenTasks"]

logger = logging.getLogger(__name__)

# A payload may be replaced between the reading of the item that points to it and its own; as often as that in a row?
_REPLACED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What this process last saw of a task.

    Attributes:
        version, status: As they were.
        inputs, inputs_at: Its questions and the pointer to them, where they are kept apart.
    """

    version: int
    status: TaskStatus
    inputs: tuple[InputRequest, ...] = ()
    inputs_at: str | None = None


class SeenTasks:
    """What was last seen of the latest tasks: hints that spare requests. Writes have their conditions all the same."""

    _MOST = 10_000

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def put(self, task: Task, inputs_at: str | None) -> None:
        """This is the task now."""
        inputs = task.inputs if inputs_at is not None else ()
        self._seen[task.task_ref] = Seen(version=task.version, status=task.status, inputs=inputs, inputs_at=inputs_at)
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
        self, ranges: Sequence[Range], limit: int, accept: Callable[[Item], bool], *attributes: str
    ) -> list[Item]:
        """The first items of the merged ranges that are acceptable as they are now; only these attributes of them."""
        if limit <= 0 or not ranges:
            return []
        found: list[Item] = []
        merged = Merged(self._calls, ranges, limit)
        while len(found) < limit:
            task_refs = await merged.take(limit - len(found))
            if not task_refs:
                break
            items = await self.items(task_refs, *attributes)
            found += [items[ref] for ref in task_refs if ref in items and accept(items[ref])]
        return found

    def _task(self, item: Item, bodies: dict[str, str | None]) -> Task:
        texts = [
            item[name]["S"] if name in item else bodies[item[f"{name}_at"]["S"]] if f"{name}_at" in item else None
            for name in PAYLOADS
        ]
        task = task_from(item, texts)
        self._seen.put(task, item["inputs_at"]["S"] if "inputs_at" in item else None)
        return task
