"""The places for blobs that the contract runs over."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from stores.backends import name_of, server_of

from raincheck.blob_stores.files import FileBlobs
from raincheck.blob_stores.records import RecordBlobStore
from raincheck.ports.blob_store import BlobStore
from raincheck.stores.memory.store import MemoryStore
from raincheck.stores.sqlite.store import SqliteStore
from support.servers.dynamodb import DynamoDBServer
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.s3 import CREDENTIALS, S3Server
from support.servers.server import Server

__all__ = ["PLACES", "Place"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One kind of blob store.

    Attributes:
        name: In the tests' ids.
        opened: An open one over the place that the folder stands for.
        expires_alone: Whether what has expired goes without a purge.
        server: The kind of server that it needs.
    """

    name: str
    opened: Callable[[Path], AbstractAsyncContextManager[BlobStore]]
    expires_alone: bool = False
    server: type[Server] | None = None

    def missing(self) -> str | None:
        """Why there can be none here, or None."""
        missing: Callable[[], str | None] | None = getattr(self.server, "missing", None)
        return missing() if missing is not None else None


@asynccontextmanager
async def _files(folder: Path) -> AsyncGenerator[BlobStore]:
    async with _open(FileBlobs(folder / "blobs")) as blobs:
        yield blobs


@asynccontextmanager
async def _notes_in_memory(folder: Path) -> AsyncGenerator[BlobStore]:
    store = MemoryStore()
    await store.open()
    async with _open(RecordBlobStore(store)) as blobs:
        yield blobs
    await store.close()


@asynccontextmanager
async def _notes_in_sqlite(folder: Path) -> AsyncGenerator[BlobStore]:
    store = SqliteStore(folder / "tasks.db")
    await store.open()
    async with _open(RecordBlobStore(store)) as blobs:
        yield blobs
    await store.close()


@asynccontextmanager
async def _notes_in_dynamodb(folder: Path) -> AsyncGenerator[BlobStore]:
    from raincheck.stores.dynamodb.store import DynamoDBStore

    store = DynamoDBStore(name_of(folder), endpoint=server_of(DynamoDBServer).url)
    await store.open()
    async with _open(RecordBlobStore(store)) as blobs:
        yield blobs
    await store.close()


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncGenerator[BlobStore]:
    from raincheck.blob_stores.postgres import PostgresBlobs
    from raincheck.stores.postgres.store import PostgresStore

    url, schema = server_of(PostgresServer).url, name_of(folder)
    store = PostgresStore(url, schema=schema)
    await store.open()
    await store.close()
    async with _open(PostgresBlobs(url, schema=schema)) as blobs:
        yield blobs


@asynccontextmanager
async def _redis(folder: Path) -> AsyncGenerator[BlobStore]:
    from raincheck.blob_stores.redis import RedisBlobs

    async with _open(RedisBlobs(server_of(RedisServer).url, key_prefix=f"{name_of(folder)}:")) as blobs:
        yield blobs


@asynccontextmanager
async def _s3(folder: Path) -> AsyncGenerator[BlobStore]:
    from raincheck.blob_stores.s3 import S3Blobs

    os.environ.update(CREDENTIALS)
    server = server_of(S3Server)
    assert isinstance(server, S3Server)
    server.make_bucket(name_of(folder))
    async with _open(S3Blobs(name_of(folder), endpoint=server.url, region="eu-central-1")) as blobs:
        yield blobs


@asynccontextmanager
async def _open(blobs: BlobStore) -> AsyncGenerator[BlobStore]:
    await blobs.open()
    try:
        yield blobs
    finally:
        await blobs.close()


@asynccontextmanager
async def _sealed(folder: Path) -> AsyncGenerator[BlobStore]:
    from raincheck.encryption.blob_store import EncryptedBlobStore
    from raincheck.encryption.cipher import PayloadCipher

    async with _open(EncryptedBlobStore(FileBlobs(folder / "blobs"), PayloadCipher([b"k" * 32]))) as blobs:
        yield blobs


PLACES = (
    Place(name="sealed files", opened=_sealed),
    Place(name="files", opened=_files),
    Place(name="notes in memory", opened=_notes_in_memory, expires_alone=True),
    Place(name="notes in sqlite", opened=_notes_in_sqlite, expires_alone=True),
    Place(name="notes in dynamodb", opened=_notes_in_dynamodb, expires_alone=True, server=DynamoDBServer),
    Place(name="postgres", opened=_postgres, server=PostgresServer),
    Place(name="redis", opened=_redis, expires_alone=True, server=RedisServer),
    Place(name="s3", opened=_s3, server=S3Server),
)
