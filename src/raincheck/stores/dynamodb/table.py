"""The table: made, upgraded, and checked when the store is opened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raincheck.errors import StoreUnavailable, StoreUnusable
from raincheck.stores.dynamodb.client import Calls
from raincheck.stores.dynamodb.errors import ConditionFailed, code_of
from raincheck.stores.dynamodb.index_queries import Index
from raincheck.stores.dynamodb.items import KEY, TTL, key, number

logger = logging.getLogger(__name__)

STEPS: tuple[Callable[[Calls], Awaitable[None]], ...] = ()
"""What brings a table from layout 1 to 2, from 2 to 3 …. Items are written one by one, so a step may run again after a
crash, and in two processes at once."""

LAYOUT = 1 + len(STEPS)
"""The layout of the items that this release writes; it stands in an item of its own."""

AGENDA = Index("agenda", "agenda_at", "N")
"""What is to be settled (by deadline or end of lease) and what is to be removed, by that time."""

BY_OPERATION = Index("of_operation", "place", "S")
BY_SCOPE = Index("of_scope", "place", "S")
BY_BOTH = Index("of_both", "place", "S")
"""Tasks by `(created_at, task_ref)`, a partition for each status of an operation, of a scope, of both."""

BY_TURN = Index("of_turn", "turn", "S")
"""Pending tasks by scope and then by `(created_at, task_ref)`, a partition for each operation and priority."""

_INDEXES = (AGENDA, BY_OPERATION, BY_SCOPE, BY_BOTH, BY_TURN)
_KINDS = {KEY: "S", **{index.name: "S" for index in _INDEXES}, **{index.sort: index.kind for index in _INDEXES}}
_LAYOUT_KEY = key("meta#layout")

# In seconds. Amazon makes an empty table in some ten seconds; an index over a full one takes minutes.
_LONGEST_WAIT = 600.0
_LOOK_EVERY = 1.0
_FIRST_LOOK = 0.02
_SAY_EVERY = 10.0


async def prepare_table(calls: Calls, *, migrate: bool) -> None:
    """Check the table; make it or what it lacks where `migrate` says so.

    Raises:
        StoreUnusable: It is another program's, of a newer raincheck, or (without `migrate`) missing or incomplete.
        StoreUnavailable: It cannot be reached, or not made, now.
    """
    place = calls.connection.place
    table = await _described(calls)
    if table is None:
        if not migrate:
            raise StoreUnusable(f"{place} is not there; `raincheck store migrate` makes it.")
        await _create(calls)
        table = await _until_active(calls)
    _check_key(table, place)
    await _check_layout(calls, migrate=migrate)
    table = await _until_active(calls, table)
    missing = [index for index in _INDEXES if index.name not in _indexes(table)]
    if missing and not migrate:
        names = ", ".join(index.name for index in missing)
        raise StoreUnusable(f"{place} lacks the index {names}; `raincheck store migrate` makes it.")
    for index in missing:
        await _add_index(calls, index)
        await _until_active(calls)
    await _check_expiry(calls, migrate=migrate)


async def _described(calls: Calls) -> Mapping[str, Any] | None:
    try:
        return (await calls.on_table("describe_table"))["Table"]
    except StoreUnavailable as error:
        if _is(error, "ResourceNotFoundException"):
            return None
        raise


def _is(error: StoreUnavailable, code: str) -> bool:
    return error.__cause__ is not None and code_of(error.__cause__) == code


def _definition(index: Index) -> dict[str, Any]:
    # Keys only: a report of progress changes no index, and what an index says is looked up in any case.
    return {
        "IndexName": index.name,
        "KeySchema": [
            {"AttributeName": index.name, "KeyType": "HASH"},
            {"AttributeName": index.sort, "KeyType": "RANGE"},
        ],
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }


def _attributes(*names: str) -> list[dict[str, str]]:
    return [{"AttributeName": name, "AttributeType": _KINDS[name]} for name in names]


async def _create(calls: Calls) -> None:
    logger.info("making %s", calls.connection.place)
    try:
        await calls.on_table(
            "create_table",
            KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
            AttributeDefinitions=_attributes(*sorted(_KINDS)),
            BillingMode="PAY_PER_REQUEST",
            GlobalSecondaryIndexes=[_definition(index) for index in _INDEXES],
        )
    except StoreUnavailable as error:
        # Another process makes it at this moment.
        if not _is(error, "ResourceInUseException"):
            raise


async def _add_index(calls: Calls, index: Index) -> None:
    logger.info("adding the index %s to %s", index.name, calls.connection.place)
    try:
        await calls.on_table(
            "update_table",
            AttributeDefinitions=_attributes(KEY, index.name, index.sort),
            GlobalSecondaryIndexUpdates=[{"Create": _definition(index)}],
        )
    except StoreUnavailable as error:
        if not (_is(error, "ResourceInUseException") or _is(error, "ValidationException")):
            raise
        table = await _until_active(calls)
        if index.name not in _indexes(table):
            raise


def _indexes(table: Mapping[str, Any]) -> dict[str, str]:
    return {index["IndexName"]: index["IndexStatus"] for index in table.get("GlobalSecondaryIndexes", [])}


async def _until_active(calls: Calls, table: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    loop = asyncio.get_running_loop()
    began = said = loop.time()
    pause = _FIRST_LOOK
    while True:
        table = table or await _described(calls)
        if table is not None:
            states = {table["TableStatus"], *_indexes(table).values()}
            if states <= {"ACTIVE", "UPDATING"} and table["TableStatus"] == "ACTIVE" and "UPDATING" not in states:
                return table
        now = loop.time()
        if now - began > _LONGEST_WAIT:
            raise StoreUnavailable(f"{calls.connection.place} is still being made after {_LONGEST_WAIT:g} s.")
        if now - said > _SAY_EVERY:
            logger.info("waiting for %s since %.0f s", calls.connection.place, now - began)
            said = now
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LOOK_EVERY)
        table = None


def _check_key(table: Mapping[str, Any], place: str) -> None:
    kinds = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    if table["KeySchema"] != [{"AttributeName": KEY, "KeyType": "HASH"}] or kinds[KEY] != "S":
        raise StoreUnusable(f"{place} is another program's: it has other keys. Choose another 'table' in [state].")


async def _check_layout(calls: Calls, *, migrate: bool) -> None:
    place = calls.connection.place
    answer = await calls.on_table("get_item", Key=_LAYOUT_KEY, ConsistentRead=True)
    if "Item" not in answer:
        if not migrate:
            raise StoreUnusable(f"{place} is not complete; `raincheck store migrate` completes it.")
        try:
            await calls.on_table(
                "put_item",
                Item={**_LAYOUT_KEY, "layout": number(LAYOUT)},
                ConditionExpression="attribute_not_exists(#key)",
                ExpressionAttributeNames={"#key": KEY},
            )
            return
        except ConditionFailed:
            answer = await calls.on_table("get_item", Key=_LAYOUT_KEY, ConsistentRead=True)
    layout = int(answer["Item"]["layout"]["N"])
    if layout < LAYOUT and not migrate:
        raise StoreUnusable(
            f"{place} has layout {layout}, this raincheck needs {LAYOUT}: run `raincheck store migrate`."
        )
    while layout < LAYOUT:
        layout = await _upgrade(calls, layout)
    if layout > LAYOUT:
        raise StoreUnusable(
            f"{place} is of a newer raincheck (layout {layout}, this one knows {LAYOUT}): upgrade raincheck."
        )


async def _upgrade(calls: Calls, before: int) -> int:
    """Take a step and record it, unless another process has; the layout of the table after it."""
    await STEPS[before - 1](calls)
    try:
        await calls.on_table(
            "update_item",
            Key=_LAYOUT_KEY,
            UpdateExpression="SET #layout = :after",
            ConditionExpression="#layout = :before",
            ExpressionAttributeNames={"#layout": "layout"},
            ExpressionAttributeValues={":before": number(before), ":after": number(before + 1)},
        )
    except ConditionFailed:
        answer = await calls.on_table("get_item", Key=_LAYOUT_KEY, ConsistentRead=True)
        return int(answer["Item"]["layout"]["N"])
    return before + 1


async def _check_expiry(calls: Calls, *, migrate: bool) -> None:
    if await _expires(calls):
        return
    if not migrate:
        raise StoreUnusable(
            f"{calls.connection.place} has no expiry (TTL) by {TTL}; `raincheck store migrate` switches it on."
        )
    try:
        await calls.on_table("update_time_to_live", TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL})
    except StoreUnavailable as error:
        # Another process switches it on at this moment.
        if not (_is(error, "ValidationException") and await _expires(calls)):
            raise


async def _expires(calls: Calls) -> bool:
    described = (await calls.on_table("describe_time_to_live"))["TimeToLiveDescription"]
    return described.get("TimeToLiveStatus") in {"ENABLED", "ENABLING"} and described.get("AttributeName") == TTL
