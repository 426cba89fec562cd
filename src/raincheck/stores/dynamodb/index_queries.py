"""Reading the indexes: several partitions, each in order, merged page by page.

An index of DynamoDB follows its table with a delay (most often milliseconds). What it says is where to look; whether it
is still so, the task's own item says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raincheck.stores.dynamodb.client import Calls, together
from raincheck.stores.dynamodb.items import KEY, Item

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
        above: Only entries after this place, or None.
        newest_first: From the end backwards.
        rank: Entries of a lower one come before those of a higher one, whatever their places.
    """

    index: Index
    partition: str
    below: str | int | None = None
    above: str | None = None
    newest_first: bool = False
    rank: int = 0

    def request(self, page: int) -> dict[str, Any]:
        """The query for its first page."""
        names = {"#p": self.index.name}
        values: dict[str, Mapping[str, str]] = {":p": {"S": self.partition}}
        condition = "#p = :p"
        if self.below is not None:
            names["#s"] = self.index.sort
            values[":s"] = {self.index.kind: str(self.below)}
            condition += f" AND #s {'<=' if self.index.kind == 'N' else '<'} :s"
        elif self.above is not None:
            names["#s"] = self.index.sort
            values[":s"] = {self.index.kind: self.above}
            condition += " AND #s > :s"
        return {
            "IndexName": self.index.name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not self.newest_first,
            "Limit": page,
        }


# An entry of an index: its place among those of other ranges, and its item's name.
_Entry = tuple[tuple[int, str | int], str]


class _Cursor:
    """A range, read as far as it is needed."""

    def __init__(self, calls: Calls, part: Range, page: int) -> None:
        self._calls = calls
        self._request: dict[str, Any] | None = part.request(page)
        self._sort = part.index.sort
        self._rank = part.rank
        self._numeric = part.index.kind == "N"
        self._entries: list[_Entry] = []
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

    def head(self) -> _Entry | None:
        """The entry at hand."""
        return self._entries[self._next] if self._next < len(self._entries) else None

    def advance(self) -> None:
        """Go on to the next entry."""
        self._next += 1

    def _entry(self, item: Item) -> _Entry:
        value = next(iter(item[self._sort].values()))
        return (self._rank, int(value) if self._numeric else value), item[KEY]["S"]


class Merged:
    """The names of the items of several ranges that are sorted alike, in their common order, each once."""

    def __init__(self, calls: Calls, ranges: Sequence[Range], page: int) -> None:
        self._calls = calls
        self._page = max(1, min(page, _LARGEST_PAGE))
        self._cursors = [_Cursor(calls, each, self._page) for each in ranges]
        self._choose = max if any(each.newest_first for each in ranges) else min
        self._met: set[str] = set()

    async def take(self, limit: int) -> list[str]:
        """The next names, fewer only where there are no more."""
        found: list[str] = []
        while len(found) < limit:
            await self.fill()
            heads = [(head, cursor) for cursor in self._cursors if (head := cursor.head()) is not None]
            if not heads:
                break
            (_, name), cursor = self._choose(heads, key=lambda each: each[0])
            cursor.advance()
            if name not in self._met:
                self._met.add(name)
                found.append(name)
        return found

    def add(self, ranges: Sequence[Range]) -> None:
        """Merge these in too; nothing has been taken yet."""
        self._cursors += [_Cursor(self._calls, each, self._page) for each in ranges]

    async def fill(self) -> None:
        """Have the next entry of each range at hand."""
        empty = [cursor for cursor in self._cursors if cursor.wants_page]
        if len(empty) == 1:
            await empty[0].fill()
        elif empty:
            await together([cursor.fill() for cursor in empty])
