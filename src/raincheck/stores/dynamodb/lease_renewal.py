"""Renewing leases from a thread, while the event loop may be blocked: a client and threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from raincheck.stores.dynamodb.client import BlockingCalls
from raincheck.stores.dynamodb.errors import ConditionFailed
from raincheck.stores.dynamodb.expressions import renewal
from raincheck.stores.dynamodb.items import storable, worker_text
from raincheck.stores.shared.timestamps import to_micros


def renew_leases(calls: BlockingCalls, worker_id: str, leases: Mapping[str, int], lease_until: datetime) -> set[str]:
    """See `TaskStore.renew`. Renewing twice is renewing once, so an ambiguous call is simply made again."""
    until = to_micros(lease_until)

    failed = threading.Event()

    def renewed(lease: tuple[str, int]) -> bool:
        task_ref, fence = lease
        # After the first failure the rest would fail one by one, each after its own time; the failure is raised.
        if failed.is_set() or not storable(task_ref):
            return False
        try:
            return _renewed(calls, worker_id, task_ref, fence, until)
        except BaseException:
            failed.set()
            raise

    if len(leases) == 1:
        held = [renewed(lease) for lease in leases.items()]
    else:
        with ThreadPoolExecutor(min(calls.connections, len(leases)), thread_name_prefix="raincheck-renewal") as pool:
            held = list(pool.map(renewed, leases.items()))
    return {task_ref for task_ref, still in zip(leases, held, strict=True) if not still}


def _renewed(calls: BlockingCalls, worker_id: str, task_ref: str, fence: int, until: int) -> bool:
    try:
        calls.call("update_item", **renewal(task_ref, worker_id, fence, until, to_deadline=False))
    except ConditionFailed as failed:
        stored = failed.items[0]
        if not stored or stored.get("worker", {}).get("S") != worker_text(worker_id):
            return False
        if int(stored["deadline_at"]["N"]) >= until:
            return False
    else:
        return True
    try:
        calls.call("update_item", **renewal(task_ref, worker_id, fence, until, to_deadline=True))
    except ConditionFailed:
        return False
    return True
