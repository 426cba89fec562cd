"""The stores that the contract suite runs over. A further store is one more entry of `BACKENDS`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from raincheck.encryption.cipher import KEY_BYTES, PayloadCipher
from raincheck.encryption.task_store import EncryptedTaskStore
from raincheck.ports.task_store import TaskStore
from raincheck.stores.memory.store import MemoryStore
from raincheck.stores.sqlite.store import SqliteStore
from support.servers.dynamodb import CREDENTIALS, DynamoDBServer
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import Server

__all__ = ["BACKENDS", "Backend", "end_servers", "name_of", "server_of"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One store, as the suite makes it.

    Attributes:
        name: In the tests' ids.
        make: A store over the place that the folder stands for; the same folder, the same tasks where `shared`.
        make_quick: The same, not waiting for the disk where that can be chosen: for thousands of small steps.
        durable, shared: As its capabilities are to say.
        server: The kind of server that it needs, None where it needs none.
        leftovers: What a closed store left in its place that would stay there for ever; it may remove the tasks.
        histories: How many the state machine tries on it.
    """

    name: str
    make: Callable[[Path], TaskStore]
    make_quick: Callable[[Path], TaskStore]
    durable: bool
    shared: bool
    server: type[Server] | None = None
    leftovers: Callable[[Path], Awaitable[list[str]]] | None = None
    histories: int = 60

    def missing(self) -> str | None:
        """Why there can be no such store here, or None."""
        missing: Callable[[], str | None] | None = getattr(self.server, "missing", None)
        return missing() if missing is not None else None


_servers: dict[type[Server], Server] = {}


def server_of(kind: type[Server]) -> Server:
    """This test process's server of a kind, started at the first call; it has room for all its tests."""
    if kind not in _servers:
        if kind is DynamoDBServer:
            os.environ.update(CREDENTIALS)
        server = kind()
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        _servers[kind] = server
    return _servers[kind]


def end_servers() -> None:
    """End them all."""
    while _servers:
        _servers.popitem()[1].close()


def name_of(folder: Path) -> str:
    """What a schema, a table or a prefix is called that stands for a folder."""
    return f"t{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def _postgres(folder: Path) -> TaskStore:
    from raincheck.stores.postgres.store import PostgresStore

    return PostgresStore(server_of(PostgresServer).url, schema=name_of(folder), pool_size=4)


def _redis(folder: Path) -> TaskStore:
    from raincheck.stores.redis.store import RedisStore

    return RedisStore(server_of(RedisServer).url, key_prefix=f"{name_of(folder)}:")


async def _redis_leftovers(folder: Path) -> list[str]:
    from stores.redis_keys import leftovers

    return await leftovers(server_of(RedisServer).url, f"{name_of(folder)}:")


def _dynamodb(folder: Path) -> TaskStore:
    from raincheck.stores.dynamodb.store import DynamoDBStore

    return DynamoDBStore(name_of(folder), endpoint=server_of(DynamoDBServer).url, poll_interval=0.05)


async def _dynamodb_leftovers(folder: Path) -> list[str]:
    from stores.dynamodb_items import leftovers

    return await leftovers(server_of(DynamoDBServer).url, name_of(folder))


def _sealed() -> TaskStore:
    return EncryptedTaskStore(MemoryStore(), PayloadCipher([b"k" * KEY_BYTES]))


_ALL = (
    Backend(
        name="memory",
        make=lambda _: MemoryStore(),
        make_quick=lambda _: MemoryStore(),
        durable=False,
        shared=False,
    ),
    Backend(
        name="sealed",
        make=lambda _: _sealed(),
        make_quick=lambda _: _sealed(),
        durable=False,
        shared=False,
        histories=20,
    ),
    Backend(
        name="sqlite",
        make=lambda folder: SqliteStore(folder / "tasks.db"),
        make_quick=lambda folder: SqliteStore(folder / "tasks.db", synchronous="normal"),
        durable=True,
        shared=True,
    ),
    Backend(name="postgres", make=_postgres, make_quick=_postgres, durable=True, shared=True, server=PostgresServer),
    Backend(
        name="redis",
        make=_redis,
        make_quick=_redis,
        durable=True,
        shared=True,
        server=RedisServer,
        leftovers=_redis_leftovers,
    ),
    Backend(
        name="dynamodb",
        make=_dynamodb,
        make_quick=_dynamodb,
        durable=True,
        shared=True,
        server=DynamoDBServer,
        leftovers=_dynamodb_leftovers,
        # A request costs a client in Python a millisecond or two, and a history makes some four hundred.
        histories=25,
    ),
)

# Until the three are written: the branch of each adds its module.
BACKENDS = tuple(
    backend
    for backend in _ALL
    if backend.server is None or importlib.util.find_spec(f"raincheck.stores.{backend.name}") is not None
)
