"""The table of a DynamoDB store as it is, read past the store."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import botocore.loaders  # pyright: ignore[reportMissingTypeStubs]
from aiobotocore.session import AioSession  # pyright: ignore[reportMissingTypeStubs]

from raincheck.stores.dynamodb.items import KEY, PAYLOADS, room_key
from support.servers.dynamodb import CREDENTIALS

__all__ = ["client", "counted", "items", "kinds", "leftovers", "miscounted"]

_STATUSES = ("pending", "processing", "input_required", "completed", "failed", "cancelled")


@functools.cache
def _loader() -> Any:
    # Reading the service's description takes a tenth of a second.
    return cast(Any, botocore.loaders).create_loader()


@asynccontextmanager
async def client(endpoint: str) -> AsyncGenerator[Any]:
    """A client of the test's own."""
    session = cast(Any, AioSession())
    session.register_component("data_loader", _loader())
    made = session.create_client(
        "dynamodb",
        endpoint_url=endpoint,
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    async with made as open_client:
        yield open_client


async def items(endpoint: str, table: str) -> dict[str, dict[str, Any]]:
    """Every item by its key."""
    found: dict[str, dict[str, Any]] = {}
    async with client(endpoint) as dynamodb:
        start: dict[str, Any] = {}
        while True:
            page = await dynamodb.scan(TableName=table, ConsistentRead=True, **start)
            found |= {item["raincheck_item"]["S"]: item for item in page["Items"]}
            if "LastEvaluatedKey" not in page:
                return found
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


def kinds(found: dict[str, dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Those of one kind: "task", "key", "part", "record", "count", "room" or "meta"."""
    return {name: item for name, item in found.items() if name.startswith(f"{kind}#")}


def counted(found: dict[str, dict[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """The tasks by status counted, and as the counters have it."""
    tasks = [item["status"]["S"] for item in kinds(found, "task").values()]
    kept = {
        status: sum(int(item.get(status, {"N": "0"})["N"]) for item in kinds(found, "count").values())
        for status in _STATUSES
    }
    return {status: tasks.count(status) for status in sorted({*tasks})}, {
        status: number for status, number in sorted(kept.items()) if number
    }


def miscounted(found: dict[str, dict[str, Any]]) -> list[str]:
    """Where the counters that room is measured by are not as the tasks are; nothing where nobody asked for room."""
    counts = {name: item for name, item in kinds(found, "count").items() if "roomed" in item}
    if not counts:
        return [f"{name} is there without room" for name in kinds(found, "room")]
    tasks = kinds(found, "task").values()
    known = [item for item in tasks if "roomed" in item]
    wrong = [f"{item[KEY]['S']} is counted" for item in known if item["status"]["S"] != "pending"]
    wrong += [
        f"{item[KEY]['S']} is not counted"
        for item in tasks
        if item["status"]["S"] == "pending" and "roomed" not in item
    ]
    present = sum(int(item["roomed"]["N"]) for item in counts.values())
    if present != len(known):
        wrong.append(f"{len(known)} are known, {present} are counted")
    scopes = Counter(room_key(json.loads(item["fixed"]["S"])[0])[KEY]["S"] for item in known)
    rooms = {name: int(item["pending"]["N"]) for name, item in kinds(found, "room").items()}
    if scopes != Counter(rooms):
        wrong.append(f"{dict(scopes)} are pending by scope, {rooms} are counted")
    return wrong


async def leftovers(endpoint: str, table: str) -> list[str]:
    """What is wrong with what lies in a table; the table is deleted then."""
    found = await items(endpoint, table)
    async with client(endpoint) as dynamodb:
        await dynamodb.delete_table(TableName=table)
    tasks = kinds(found, "task")
    pointers = [
        item[f"{payload}_at"]["S"].partition(":")
        for item in tasks.values()
        for payload in PAYLOADS
        if f"{payload}_at" in item
    ]
    chunks = {f"part#{name}#{index}" for name, _, number in pointers for index in range(int(number))}
    parts = kinds(found, "part").keys()
    holders = {f"task#{item['task_ref']['S']}" for item in kinds(found, "key").values()}
    wrong = [
        f"{name} has no expiry" for name, item in found.items() if _expires(name, item) and "remove_at" not in item
    ]
    wrong += [f"{name} is nobody's" for name in sorted(parts - chunks)]
    wrong += [f"{name} is missing" for name in sorted(chunks - parts)]
    wrong += [f"a key is of {name}, which is gone" for name in sorted(holders - tasks.keys())]
    present, kept = counted(found)
    if present != kept:
        wrong.append(f"{present} are there, {kept} are counted")
    return wrong + miscounted(found)


def _expires(name: str, item: dict[str, Any]) -> bool:
    return not name.startswith(("count#", "meta#")) and not (name.startswith("record#") and "expires_at" not in item)
