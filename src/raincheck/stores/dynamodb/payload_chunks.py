"""Payloads too large for a task's own item: in chunks, items of their own, that are never changed.

A payload is written under an id of its own before the item that points to it, and removed after the last item that
did. What a death leaves between the two is removed by DynamoDB's own expiry, which every chunk has.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import zlib
from collections.abc import Collection, Sequence
from contextvars import Context

from raincheck.errors import StoreError, StoreUnavailable
from raincheck.stores.dynamodb.client import Calls, together
from raincheck.stores.dynamodb.items import KEY, TTL, Item, key, number

logger = logging.getLogger(__name__)

# In bytes: with its key and attributes an item may have 400 KB.
_CHUNK = 390_000
# Compressing less than this on the event loop takes less time than handing it to a thread.
_LARGE = 64 * 1024
_AT_ONCE = 4
_LARGEST_READ = 100
_LARGEST_WRITE = 25
_PATIENCE = 0.02


async def read_items(calls: Calls, keys: Sequence[Item], *, attributes: Sequence[str] = ()) -> list[Item]:
    """The items of these different keys that exist, as they are now, in no order; only these attributes of them."""
    names = {f"#n{index}": name for index, name in enumerate(attributes)}
    projected = {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names} if names else {}

    async def some(wanted: Sequence[Item]) -> list[Item]:
        found: list[Item] = []
        pause = _PATIENCE
        # Bounded: DynamoDB answers at least one key of a request, or throttles it as a whole.
        while wanted:
            request = {"Keys": wanted, "ConsistentRead": True, **projected}
            answer = await calls.call("batch_get_item", RequestItems={calls.table: request})
            found += answer["Responses"].get(calls.table, [])
            left: Sequence[Item] = answer.get("UnprocessedKeys", {}).get(calls.table, {}).get("Keys", [])
            if len(left) == len(wanted):
                await asyncio.sleep(pause)
                pause *= 2
                if pause > calls.connection.timeout_seconds:
                    raise StoreUnavailable(f"{calls.connection.place} is throttled by AWS.")
            wanted = left
        return found

    batches = [keys[start : start + _LARGEST_READ] for start in range(0, len(keys), _LARGEST_READ)]
    if len(batches) == 1:
        return await some(batches[0])
    return [item for items in await together([some(batch) for batch in batches]) for item in items]


def _chunk_key(name: str, index: int) -> Item:
    return key(f"part#{name}#{index}")


def _chunk_keys(pointer: str) -> list[Item]:
    name, _, number_of_chunks = pointer.partition(":")
    return [_chunk_key(name, index) for index in range(int(number_of_chunks))]


def _compressed(body: str) -> bytes:
    return zlib.compress(body.encode("ascii"), 1)


def _restored(body: bytes) -> str:
    return zlib.decompress(body).decode("ascii")


class Parts:
    """The payloads that are kept apart."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._removals: set[asyncio.Task[None]] = set()

    async def write(self, body: str, remove_at: int) -> str:
        """Write a payload (ASCII text); the pointer to it.

        Args:
            body: The payload's JSON.
            remove_at: When DynamoDB removes it if no process has, in seconds since 1970.
        """
        packed = await asyncio.to_thread(_compressed, body) if len(body) > _LARGE else _compressed(body)
        name = secrets.token_hex(12)
        chunks = [packed[start : start + _CHUNK] for start in range(0, len(packed), _CHUNK)]
        slots = asyncio.Semaphore(_AT_ONCE)

        async def put(index: int, chunk: bytes) -> None:
            item = {**_chunk_key(name, index), "body": {"B": chunk}, TTL: number(remove_at)}
            async with slots:
                await self._calls.on_table("put_item", Item=item)

        await together([put(index, chunk) for index, chunk in enumerate(chunks)])
        return f"{name}:{len(chunks)}"

    async def read(self, pointers: Collection[str]) -> dict[str, str | None]:
        """The payloads of these pointers; None for one that is not there any more, or not whole."""
        wanted = {pointer: _chunk_keys(pointer) for pointer in pointers}
        keys = [each for keys in wanted.values() for each in keys]
        # Few at a time: an answer has room for forty chunks.
        steps = [keys[start : start + _LARGEST_WRITE] for start in range(0, len(keys), _LARGEST_WRITE)]
        slots = asyncio.Semaphore(_AT_ONCE)

        async def some(step: list[Item]) -> list[Item]:
            async with slots:
                return await read_items(self._calls, step)

        found = {item[KEY]["S"]: item for items in await together([some(step) for step in steps]) for item in items}
        bodies: dict[str, str | None] = {}
        for pointer, its_keys in wanted.items():
            items = [found.get(each[KEY]["S"]) for each in its_keys]
            whole = [item["body"]["B"] for item in items if item is not None]
            if len(whole) < len(its_keys):
                bodies[pointer] = None
                continue
            packed = b"".join(whole)
            large = len(packed) > _LARGE
            bodies[pointer] = await asyncio.to_thread(_restored, packed) if large else _restored(packed)
        return bodies

    def remove(self, pointers: Collection[str]) -> None:
        """Remove payloads soon, in the background: what stays is removed by its expiry."""
        keys = [each for pointer in pointers for each in _chunk_keys(pointer)]
        if keys and self._calls.is_open:
            removal = asyncio.create_task(self._remove(keys), name="raincheck-parts", context=Context())
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def finish(self) -> None:
        """Wait for the removals under way."""
        while self._removals:
            await asyncio.gather(*self._removals, return_exceptions=True)

    async def _remove(self, keys: Sequence[Item]) -> None:
        table = self._calls.table
        try:
            for start in range(0, len(keys), _LARGEST_WRITE):
                wanted = [{"DeleteRequest": {"Key": each}} for each in keys[start : start + _LARGEST_WRITE]]
                await self._calls.call("batch_write_item", RequestItems={table: wanted})
        except StoreError as error:
            logger.info("payloads stay until they expire: %s", error.message)
