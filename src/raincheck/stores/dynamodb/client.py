"""Calls to DynamoDB: bounded in time, repeated where that is safe, with errors of ours.

The client's own retries are off. A write that is repeated carries what tells its first attempt from another's write (a
token of the transaction, a mark in the item), so that a lost answer never turns a success into a failed condition.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import botocore.loaders  # pyright: ignore[reportMissingTypeStubs]
from aiobotocore.config import AioConfig  # pyright: ignore[reportMissingTypeStubs]
from aiobotocore.session import AioSession  # pyright: ignore[reportMissingTypeStubs]
from botocore.exceptions import ClientError  # pyright: ignore[reportMissingTypeStubs]

from raincheck.errors import StoreError, StoreUnavailable
from raincheck.ports.tls import Tls
from raincheck.stores.dynamodb.errors import FOREIGN, failed_conditions, is_cut, is_passing, is_unanswered, store_error
from raincheck.stores.dynamodb.server_clock import AnsweredClock
from raincheck.timing.clock import monotonic

T = TypeVar("T")

Answer = Mapping[str, Any]

# So often a call is tried when the connection cannot be made or is cut; then the server is taken to be away.
_CUTS = 3
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5


_READS = frozenset({"batch_get_item", "describe_table", "describe_time_to_live", "get_item", "query"})


_began: ContextVar[float | None] = ContextVar("began")


async def begun(verb: Coroutine[Any, Any, T]) -> T:
    """Carry out a verb that may wait for others before it calls: its patience with the server begins now."""
    token = _began.set(asyncio.get_running_loop().time())
    try:
        return await verb
    finally:
        # A caller that gets the outcome next, and begins a call of its own, has waited for no other.
        _began.reset(token)


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of several calls that are made at once. All are over when it raises: nothing is written later."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[T]", results)


@functools.cache
def _loader() -> Any:
    # Keeps the service's description, which takes a tenth of a second to read, for every store of the process.
    return cast(Any, botocore.loaders).create_loader()


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """Where the table is and how it is reached.

    Attributes:
        table: Its name.
        region: The AWS region, empty: as the AWS environment says.
        endpoint: The server's address, empty: AWS's own.
        pool_size: How many connections are kept.
        timeout_seconds: How long one call may take, its repetitions included.
        tls: TLS beyond what the address says.
    """

    table: str
    region: str
    endpoint: str
    pool_size: int
    timeout_seconds: float
    tls: Tls | None

    @property
    def address(self) -> str:
        """The endpoint; where TLS is set, it is spoken whatever the endpoint says."""
        if self.tls is not None and self.endpoint.startswith("http://"):
            return f"https://{self.endpoint.removeprefix('http://')}"
        return self.endpoint

    @property
    def place(self) -> str:
        """The table, as messages name it: never with a password that the address may hold."""
        if self.endpoint:
            parts = urlsplit(self.address)
            return f"The DynamoDB table {self.table} at {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return f"The DynamoDB table {self.table}{f' in {self.region}' if self.region else ''}"

    def arguments(self) -> dict[str, Any]:
        """What makes a client, but its `config`."""
        made: dict[str, Any] = {"region_name": self.region or None, "endpoint_url": self.address or None}
        if self.address.startswith("http://"):
            made["verify"] = False
        elif self.tls is not None and self.tls.ca:
            made["verify"] = self.tls.ca
        return made

    def options(self) -> dict[str, Any]:
        """The members of a client's `config`."""
        made: dict[str, Any] = {
            "connect_timeout": self.timeout_seconds,
            "read_timeout": self.timeout_seconds,
            "max_pool_connections": self.pool_size,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "parameter_validation": False,
        }
        if self.tls is not None and self.tls.cert:
            made["client_cert"] = (self.tls.cert, self.tls.key)
        return made

    def error(self, error: BaseException, operation: str) -> StoreError:
        """The error of ours for one that this operation raised."""
        return store_error(error, self.place, operation.title().replace("_", ""), self.timeout_seconds)

    def closed(self) -> StoreUnavailable:
        """The error where the store is not open."""
        return StoreUnavailable(f"{self.place} is not open.")

    def unknown(self) -> StoreUnavailable:
        """The error where it cannot be known whether a write was carried out."""
        told = f"{self.place} did not answer in time: it is not known whether it took the write."
        return StoreUnavailable(told, maybe_done=True)


class _Tries:
    """Whether a call that failed is to be tried again, and when; and whether it may have been carried out.

    Args:
        writes: Whether it changes anything.
    """

    def __init__(self, *, writes: bool) -> None:
        self._writes = writes
        self._maybe_done = False
        self._cuts = 0
        self._number = 0

    def pause(self, error: BaseException) -> float | None:
        """Seconds until the next try; None: there is none."""
        self._maybe_done = self._maybe_done or is_unanswered(error)
        if is_cut(error):
            self._cuts += 1
        elif not is_passing(error):
            return None
        if self._cuts >= _CUTS:
            return None
        self._number += 1
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._number)
        return random.uniform(_FIRST_PAUSE / 2, longest)  # noqa: S311  no secret

    def told(self, error: StoreError, *, broken_off: bool = False) -> StoreError:
        """The error, which says whether the call may have been carried out all the same."""
        if isinstance(error, StoreUnavailable):
            error.maybe_done = self._writes and (self._maybe_done or broken_off)
        return error


class Calls:
    """The client of an event loop.

    Attributes:
        clock: What time it is at DynamoDB, as its answers tell.
    """

    def __init__(self, connection: Connection, clock: AnsweredClock | None = None) -> None:
        self.connection = connection
        self.table = connection.table
        self._context: AbstractAsyncContextManager[Any] | None = None
        self._client: Any = None
        self._slots = asyncio.Semaphore(connection.pool_size)
        self._answered_at = float("-inf")
        self.clock = clock or AnsweredClock()

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._client is not None

    async def open(self) -> None:
        """Make the client; nothing is sent to DynamoDB yet.

        Raises:
            StoreUnavailable: There is no region, or the AWS environment is incomplete.
        """
        connection = self.connection
        try:
            session = cast(Any, AioSession())
            session.register_component("data_loader", _loader())
            config = AioConfig(**connection.options())
            self._context = cast(
                "AbstractAsyncContextManager[Any]",
                session.create_client("dynamodb", config=config, **connection.arguments()),
            )
            async with asyncio.timeout(connection.timeout_seconds):
                self._client = await self._context.__aenter__()
        except (*FOREIGN, TimeoutError) as error:
            self._context = None
            raise connection.error(error, "") from error

    async def close(self) -> None:
        """Close its connections. Idempotent."""
        context, self._context, self._client = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)

    async def turn(self, lock: asyncio.Lock | asyncio.Semaphore) -> float:
        """Acquire the lock, as long as the server answers anybody; until when it must answer the caller then.

        A caller is told that the server is not available `timeout_seconds` after its own beginning, or after the
        server's last answer to this process, whichever is later: many callers wait for each other, not for the server.

        Raises:
            StoreUnavailable: The server has given no answer for that long.
        """
        loop = asyncio.get_running_loop()
        began = _began.get(None) or loop.time()
        seconds = self.connection.timeout_seconds
        while True:
            until = max(began, self._answered_at) + seconds
            try:
                async with asyncio.timeout_at(until):
                    await lock.acquire()
            except TimeoutError as error:
                if max(began, self._answered_at) + seconds <= loop.time():
                    raise self.connection.error(error, "") from error
            else:
                return max(began, self._answered_at) + seconds

    async def call(self, operation: str, **request: Any) -> Answer:
        """One operation of DynamoDB (`put_item`), on this store's table where it takes one.

        Raises:
            ConditionFailed: A condition of the write did not hold.
            StoreError: Theirs, mapped.
        """
        if self._client is None:
            raise self.connection.closed()
        method = getattr(self._client, operation)
        until = await self.turn(self._slots)
        try:
            return await self._tried(operation, method, request, until)
        finally:
            self._slots.release()

    async def _tried(
        self, operation: str, method: Callable[..., Awaitable[Answer]], request: Answer, until: float
    ) -> Answer:
        loop = asyncio.get_running_loop()
        tries = _Tries(writes=operation not in _READS)
        last: BaseException | None = None
        try:
            async with asyncio.timeout_at(until):
                while True:
                    asked_at = monotonic()
                    try:
                        answer = await method(**request)
                    except RuntimeError:
                        # What the connections say to a call that was under way when they were closed.
                        if self.is_open:
                            raise
                        raise self.connection.closed() from None
                    except FOREIGN as error:
                        if isinstance(error, ClientError):
                            self._answered_at = loop.time()
                        if (failed := failed_conditions(error)) is not None:
                            failed.repeated = last is not None
                            raise failed from None
                        last = error
                        pause = tries.pause(error)
                        if pause is None:
                            raise tries.told(self.connection.error(error, operation)) from error
                    else:
                        self._answered_at = loop.time()
                        _hear_the_time(self.clock, answer, asked_at)
                        return answer
                    await asyncio.sleep(pause)
        except TimeoutError as error:
            # It was broken off in a call, or between two of them.
            raise tries.told(self.connection.error(last or error, operation), broken_off=True) from error

    async def on_table(self, operation: str, **request: Any) -> Answer:
        """`call`, of an operation that takes `TableName`."""
        return await self.call(operation, TableName=self.table, **request)


def _hear_the_time(clock: AnsweredClock, answer: Answer, asked_at: float) -> None:
    headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if (date := headers.get("date")) is not None:
        clock.heard(date, asked_at, monotonic())
