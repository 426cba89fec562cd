"""The operations that ever had a task: a listing of all scopes asks for each of them."""

from __future__ import annotations

import json

from raincheck.stores.dynamodb_calls import Calls
from raincheck.stores.dynamodb_items import key

__all__ = ["Operations"]

_KEY = key("meta#operations")


class Operations:
    """The names of operations, a set in one item; it grows with what is declared, not with what is stored."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._known: set[str] = set()

    async def add(self, operation: str) -> None:
        """Have it in the set before its first task is there; one request for each operation of a process."""
        if operation in self._known:
            return
        await self._calls.on_table(
            "update_item",
            Key=_KEY,
            UpdateExpression="ADD #names :name",
            ExpressionAttributeNames={"#names": "names"},
            ExpressionAttributeValues={":name": {"SS": [json.dumps(operation)]}},
        )
        self._known.add(operation)

    async def all(self) -> list[str]:
        """All of them."""
        answer = await self._calls.on_table("get_item", Key=_KEY, ConsistentRead=True)
        names: list[str] = answer.get("Item", {}).get("names", {}).get("SS", [])
        return [json.loads(name) for name in names]
