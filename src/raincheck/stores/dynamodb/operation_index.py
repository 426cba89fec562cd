"""The operations that ever had a task, and their priorities: claims and listings of all scopes ask for each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from raincheck.stores.dynamodb.client import Calls
from raincheck.stores.dynamodb.items import key

_KEY = key("meta#operations")


class Operations:
    """The names of operations and their priorities, sets in one item; it grows with what is declared, not with what is
    stored."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._known: set[tuple[str, int]] = set()

    async def add(self, operation: str, priority: int) -> None:
        """Have it in the sets before its first task is there; one request for each operation of a process."""
        if (operation, priority) in self._known:
            return
        names, values = {"#names": "names"}, {":name": {"SS": [json.dumps(operation)]}}
        expression = "ADD #names :name"
        if priority:
            expression += ", #priorities :priority"
            names["#priorities"] = "priorities"
            values[":priority"] = {"SS": [json.dumps([operation, priority])]}
        await self._calls.on_table(
            "update_item",
            Key=_KEY,
            UpdateExpression=expression,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
        )
        self._known.add((operation, priority))

    async def all(self) -> Mapping[str, list[int]]:
        """All of them, each with the priorities that tasks of it ever had, the highest first; 0 is always among
        them."""
        answer = await self._calls.on_table("get_item", Key=_KEY, ConsistentRead=True)
        item = answer.get("Item", {})
        found: dict[str, list[int]] = {json.loads(name): [0] for name in item.get("names", {}).get("SS", [])}
        for pair in item.get("priorities", {}).get("SS", []):
            operation, priority = json.loads(pair)
            found.setdefault(operation, [0]).append(priority)
        return {operation: sorted(priorities, reverse=True) for operation, priorities in found.items()}
