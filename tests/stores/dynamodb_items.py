"""The table of a DynamoDB store as it is, read past the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from aiobotocore.session import AioSession  # pyright: ignore[reportMissingTypeStubs]

from support.servers.dynamodb import CREDENTIALS

__all__ = ["client", "counted", "items", "kinds"]

_STATUSES = ("pending", "processing", "input_required", "completed", "failed", "cancelled")


@asynccontextmanager
async def client(endpoint: str) -> AsyncGenerator[Any]:
    """A client of the test's own."""
    made = cast(Any, AioSession()).create_client(
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
    """Those of one kind: "task", "key", "part", "count" or "meta"."""
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
