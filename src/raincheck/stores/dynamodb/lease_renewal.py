"""The renewal of leases in a DynamoDB table: each by an update of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from raincheck.stores.dynamodb.client import Calls, together
from raincheck.stores.dynamodb.errors import ConditionFailed
from raincheck.stores.dynamodb.expressions import renewal
from raincheck.stores.dynamodb.items import storable, worker_text
from raincheck.stores.shared.timestamps import to_micros


async def renew_leases(calls: Calls, worker_id: str, leases: Mapping[str, int], lease_until: datetime) -> set[str]:
    """See `TaskStore.renew`. Renewing twice is renewing once, so an ambiguous call is simply made again."""
    until = to_micros(lease_until)
    held = await together(_renewed(calls, worker_id, task_ref, fence, until) for task_ref, fence in leases.items())
    return {task_ref for task_ref, still in zip(leases, held, strict=True) if not still}


async def _renewed(calls: Calls, worker_id: str, task_ref: str, fence: int, until: int) -> bool:
    if not storable(task_ref):
        return False
    try:
        await calls.on_table("update_item", **renewal(task_ref, worker_id, fence, until, to_deadline=False))
    except ConditionFailed as failed:
        stored = failed.items[0]
        if not stored or stored.get("worker", {}).get("S") != worker_text(worker_id):
            return False
        if int(stored["deadline_at"]["N"]) >= until:
            return False
    else:
        return True
    try:
        await calls.on_table("update_item", **renewal(task_ref, worker_id, fence, until, to_deadline=True))
    except ConditionFailed:
        return False
    return True
