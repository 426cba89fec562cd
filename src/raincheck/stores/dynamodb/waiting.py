"""Waiting tasks by scope: the turn index, one page for each scope with many tasks, one for all with few."""

from __future__ import annotations

from collections.abc import Collection

from raincheck.stores.dynamodb.client import Calls
from raincheck.stores.dynamodb.index_queries import Range
from raincheck.stores.dynamodb.items import KEY, line_of, turn_of
from raincheck.stores.dynamodb.table import BY_TURN
from raincheck.stores.shared.waiting import share

_LARGEST_PAGE = 100


async def waiting_in(
    calls: Calls, operation: str, priority: int, limit: int, *, after: str, leave_out: Collection[str]
) -> list[str]:
    """The names of the items of an operation's pending tasks of a priority, as `TaskStore.waiting` has them."""
    without = {turn_of(scope) for scope in leave_out}
    found: dict[str, list[str]] = {}
    for start in (_behind(turn_of(after)), None):
        place: str | None = start
        while len(found) < limit:
            part = Range(index=BY_TURN, partition=line_of(operation, priority), above=place)
            answer = await calls.on_table("query", **part.request(min(limit + 1, _LARGEST_PAGE)))
            entries = [(_turn(item[BY_TURN.sort]["S"]), item[KEY]["S"]) for item in answer["Items"]]
            fresh: dict[str, list[str]] = {}
            for turn, name in entries:
                if turn not in found and turn not in without:
                    fresh.setdefault(turn, []).append(name)
            found |= fresh
            if "LastEvaluatedKey" not in answer or not entries:
                break
            place = _behind(entries[-1][0])
            if start is None and place > _behind(turn_of(after)):
                break
    scopes = list(found)[:limit]
    return [name for turn in scopes for name in found[turn][: share(limit, scopes)]]


def _turn(place: str) -> str:
    return place.partition("#")[0] + "#"


def _behind(turn: str) -> str:
    """A place behind all of that scope."""
    return turn[:-1] + "$"
