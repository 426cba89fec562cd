"""Reading the indexes: several partitions, each in order, merged page by page.

An index of DynamoDB follows its table with a delay (most often milliseconds). What it says is where to look; whether it
is still so, the task's own item says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raincheck.stores.dynamodb_calls import Calls, together
from raincheck.stores.dynamodb_items import Item, ref_of

__all__ = ["Index", "Merged", "Range"]

_LARGEST_PAGE = 1000


class Index(NamedTuple):
    """An index of the table: its name, which is that of its partition's attribute, and how it is sorted."""

    name: str
    sort: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A part of an index.

    Attributes:
        index: Which index.
        partition: Which partition of it.
        below: Only entries before this place, or None. Where the index is sorted by number: up to it.
        newest_first: From the end backwards.
    """

    index: Index
    partition: str
    below: str | int | None = None
    newest_first: bool = False

    def request(self, page: int) -> dict[str, Any]:
        """The query for its first page."""
        names = {"#p": self.index.name}
        values: dict[str, Mapping[str, str]] = {":p": {"S": self.partition}}
        condition = "#p = :p"
        if self.below is not None:
            names["#s"] = self.index.sort
            values[":s"] = {self.index.kind: str(self.below)}
            condition += f" AND #s {'<=' if self.index.kind == 'N' else '<'} :s"
        return {
            "IndexName": self.index.name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not self.newest_first,
            "Limit": page,
        }


class _Cursor:
    """A range, read as far as it is needed."""

    def __init__(self, calls: Calls, part: Range, page: int) -> None:
        self._calls = calls
        self._request: dict[str, Any] | None = part.request(page)
        self._sort = part.index.sort
        self._numeric = part.index.kind == "N"
        self._entries: list[tuple[str | int, str]] = []
        self._next = 0

    async def fill(self) -> None:
        """Have an entry at hand, if there is one more."""
        while self._request is not None and self._next >= len(self._entries):
            answer = await self._calls.on_table("query", **self._request)
            self._entries, self._next = [self._entry(item) for item in answer["Items"]], 0
            last = answer.get("LastEvaluatedKey")
            self._request = {**self._request, "ExclusiveStartKey": last} if last else None

    @property
    def wants_page(self) -> bool:
        """Whether nothing is at hand, and there may be more."""
        return self._next >= len(self._entries) and self._request is not None

    def head(self) -> tuple[str | int, str] | None:
        """The entry at hand: its place, and its task_ref."""
        return self._entries[self._next] if self._next < len(self._entries) else None

    def advance(self) -> None:
        """Go on to the next entry."""
        self._next += 1

    def _entry(self, item: Item) -> tuple[str | int, str]:
        value = next(iter(item[self._sort].values()))
        return (int(value) if self._numeric else value), ref_of(item)


class Merged:
    """The task_refs of several ranges that are sorted alike, in their common order, each once."""

    def __init__(self, calls: Calls, ranges: Sequence[Range], page: int) -> None:
        size = max(1, min(page, _LARGEST_PAGE))
        self._cursors = [_Cursor(calls, each, size) for each in ranges]
        self._choose = max if any(each.newest_first for each in ranges) else min
        self._met: set[str] = set()

    async def take(self, limit: int) -> list[str]:
        """The next refs, fewer only where there are no more."""
        found: list[str] = []
        while len(found) < limit:
            await self._fill()
            heads = [(head, cursor) for cursor in self._cursors if (head := cursor.head()) is not None]
            if not heads:
                break
            (_, task_ref), cursor = self._choose(heads, key=lambda each: each[0])
            cursor.advance()
            if task_ref not in self._met:
                self._met.add(task_ref)
                found.append(task_ref)
        return found

    async def _fill(self) -> None:
        empty = [cursor for cursor in self._cursors if cursor.wants_page]
        if len(empty) == 1:
            await empty[0].fill()
        elif empty:
            await together([cursor.fill() for cursor in empty])
