"""Transactions: several writes that are carried out together or not at all, each under a name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from raincheck.stores.dynamodb.client import Calls
from raincheck.stores.dynamodb.errors import ConditionFailed
from raincheck.stores.dynamodb.local_locks import LocalLocks

Parts = dict[str, Mapping[str, Any]]
"""The writes of a transaction by name; those that others touch too have the name of their item (`count#7`)."""

_SHARED = ("count#", "room#")


async def transact(calls: Calls, turns: LocalLocks, parts: Parts) -> None:
    """Carry out a transaction.

    Raises:
        ConditionFailed: Nothing was written; `named` has what was found where conditions failed.
        StoreError: See `Calls.call`.
    """
    # Of two transactions that touch one item at the same time, DynamoDB refuses one, and charges for both.
    async with turns.alone(*sorted(name for name in parts if name.startswith(_SHARED))):
        try:
            await calls.call(
                "transact_write_items",
                TransactItems=list(parts.values()),
                # Makes the repetition of a transaction that was carried out succeed.
                ClientRequestToken=secrets.token_hex(16),
            )
        except ConditionFailed as failed:
            found = zip(parts, failed.items, strict=True)
            failed.named = {name: item for name, item in found if item is not None}
            raise
