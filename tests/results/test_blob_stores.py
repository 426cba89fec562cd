"""The contract of blobs, over every place that keeps them; and what is special about each."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from results.places import Place
from stores.backends import name_of, server_of

from raincheck.blob_stores.files import FileBlobs
from raincheck.blob_stores.records import RecordBlobStore
from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable
from raincheck.ports.blob_store import BlobStore, blob_key, expired_before, expiry_of
from raincheck.ports.records import RecordQuery
from raincheck.stores.memory.store import MemoryStore
from support.servers.redis import RedisServer
from support.servers.s3 import S3Server
from support.servers.server import free_port, needed

LATER = datetime.now(UTC) + timedelta(days=2)
# Around the sizes of parts and pieces, where an adapter would slip.
SIZES = (
    0,
    1,
    132 * 1024,
    132 * 1024 + 1,
    64 * 1024 - 1,
    64 * 1024,
    256 * 1024,
    2 * 256 * 1024 - 1,
    1024 * 1024,
    3 * 1024 * 1024 + 7,
)


async def test_what_was_put_is_read_whole_and_in_any_page(blobs: BlobStore) -> None:
    chance = random.Random(7)
    for size in SIZES:
        key, body = blob_key(LATER), chance.randbytes(size)
        await blobs.put(key, body)
        assert await blobs.get(key, 0, size) == body
        assert await blobs.get(key, 0, size + 100) == body
        for _ in range(4):
            offset, length = chance.randint(0, size), chance.randint(1, 400_000)
            assert await blobs.get(key, offset, length) == body[offset : offset + length]
        assert await blobs.get(key, size, 10) == b""


async def test_a_body_may_be_put_again_under_its_key(blobs: BlobStore) -> None:
    key, body = blob_key(LATER), random.randbytes(700_000)
    await asyncio.gather(blobs.put(key, body), blobs.put(blob_key(LATER), b"another"))
    await blobs.put(key, body)
    assert await blobs.get(key, 0, len(body)) == body


async def test_what_is_not_there_is_none_and_what_was_removed_is_not_there(blobs: BlobStore) -> None:
    key = blob_key(LATER)
    assert await blobs.get(key, 0, 10) is None
    assert await blobs.get(key, 500_000, 10) is None
    await blobs.remove(key)
    await blobs.put(key, b"x" * 500_000)
    await blobs.remove(key)
    assert await blobs.get(key, 0, 10) is None
    assert await blobs.get(key, 400_000, 10) is None


async def test_a_purge_removes_what_has_expired_and_nothing_else(place: Place, blobs: BlobStore) -> None:
    now = datetime.now(UTC)
    kept = blob_key(now)
    await blobs.put(kept, b"kept to the end of its hour")
    if place.expires_alone:
        assert await blobs.purge(now, 10) == 0
    else:
        expired = [blob_key(now - timedelta(hours=2 + each)) for each in range(3)]
        for key in expired:
            await blobs.put(key, b"x" * 300_000)
        assert await blobs.purge(now, 2) == 2
        assert await blobs.purge(now, 10) == 1
        assert await blobs.purge(now, 10) == 0
        assert [await blobs.get(key, 0, 1) for key in expired] == [None] * 3
        assert await blobs.purge(expiry_of(kept) - timedelta(seconds=1), 10) == 0
    assert await blobs.get(kept, 0, 4) == b"kept"


@pytest.mark.parametrize("key", ["", "..", "../../etc/passwd", "2026112510-" + "0" * 31, "2026112510-" + "g" * 32])
async def test_no_other_text_is_taken_for_a_key(blobs: BlobStore, key: str) -> None:
    for verb in (blobs.put(key, b"x"), blobs.get(key, 0, 1), blobs.remove(key)):
        with pytest.raises(ValueError, match="not a blob's key"):
            await verb


def test_a_key_says_its_expiry_to_the_hour_and_never_one_that_is_too_early() -> None:
    at = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    key = blob_key(at)
    assert expiry_of(key) == datetime(2027, 1, 1, 0, tzinfo=UTC)
    assert not key < expired_before(at)
    assert key < expired_before(expiry_of(key))
    assert len({blob_key(at) for _ in range(100)}) == 100


# Files


async def test_files_are_their_users_alone_and_no_half_of_one_is_seen(tmp_path: Path) -> None:
    blobs, key = FileBlobs(tmp_path / "blobs"), blob_key(LATER)
    await blobs.put(key, b"secret")
    for path in (tmp_path / "blobs").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [key]


async def test_what_a_killed_writer_left_half_written_goes_with_its_hour(tmp_path: Path) -> None:
    blobs, now = FileBlobs(tmp_path), datetime.now(UTC)
    key = blob_key(now - timedelta(hours=3))
    await blobs.put(key, b"x")
    (tmp_path / key[:10] / f"{key}.0123abcd.part").write_bytes(b"half")
    await blobs.put(blob_key(LATER), b"y")
    assert await blobs.purge(now, 10) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [expiry_of(blob_key(LATER)).strftime("%Y%m%d%H")]


async def test_a_purge_of_files_looks_at_no_hour_that_is_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = FileBlobs(tmp_path)
    for hour in range(3, 6):
        await blobs.put(blob_key(LATER + timedelta(hours=hour)), b"x")
    looked: list[str] = []
    scan = os.scandir

    def scandir(path: Path) -> Any:
        looked.append(str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    await blobs.purge(datetime.now(UTC), 10)
    assert looked == [str(tmp_path)]


async def test_a_folder_that_is_a_file_stops_the_start_and_one_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="is not a folder"):
        await FileBlobs(tmp_path / "file").open()
    with pytest.raises(StoreUnavailable, match=r"Large results cannot be kept in .*Not a directory"):
        await FileBlobs(tmp_path / "file" / "below").put(blob_key(LATER), b"x")


# Servers


@pytest.mark.full
async def test_redis_keeps_no_blob_without_an_expiry(tmp_path: Path) -> None:
    needed(RedisServer.missing())
    import redis.asyncio

    from raincheck.blob_stores.redis import RedisBlobs

    url, prefix = server_of(RedisServer).url, f"{name_of(tmp_path)}:"
    blobs, key = RedisBlobs(url, key_prefix=prefix), blob_key(LATER)
    await blobs.put(key, b"x" * 2_500_000)
    await blobs.close()
    client: Any = redis.asyncio.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]
    left = {name: await client.pttl(name) async for name in client.scan_iter(match=f"{prefix}*")}
    await client.aclose()
    assert set(left) == {f"{prefix}{{rc}}:blob:{key}".encode()}
    assert all(0 < each <= 3 * 86_400_000 for each in left.values())


async def test_records_of_blobs_expire_with_them() -> None:
    store = MemoryStore()
    await store.open()
    blobs, key = RecordBlobStore(store), blob_key(datetime.now(UTC) - timedelta(hours=5))
    await blobs.put(key, b"x" * 500_000)
    assert {record.expires_at for record in await store.records(RecordQuery("blob"))} == {expiry_of(key)}
    while await store.records(RecordQuery("blob")):
        await store.purge(datetime.now(UTC), 100)
    assert await blobs.get(key, 0, 1) is None
    await store.close()


@pytest.mark.full
async def test_a_bucket_that_is_not_there_stops_the_start_and_others_objects_stay(tmp_path: Path) -> None:
    needed(S3Server.missing())
    from raincheck.blob_stores.s3 import S3Blobs
    from support.servers.s3 import CREDENTIALS

    os.environ.update(CREDENTIALS)
    server = server_of(S3Server)
    assert isinstance(server, S3Server)
    with pytest.raises(StoreUnusable, match=r"The bucket nowhere at http://127.0.0.1:.* is not there"):
        await S3Blobs("nowhere", endpoint=server.url, region="eu-central-1").open()
    server.make_bucket(name_of(tmp_path))
    short = S3Blobs(name_of(tmp_path), prefix="a", endpoint=server.url, region="eu-central-1")
    other = S3Blobs(name_of(tmp_path), prefix="a1", endpoint=server.url, region="eu-central-1")
    await short.open()
    await other.open()
    old = blob_key(datetime.now(UTC) - timedelta(days=9))
    await other.put(old, b"somebody else's")
    assert await short.purge(datetime.now(UTC), 10) == 0
    assert await other.get(old, 0, 8) == b"somebody"
    await short.close()
    await other.close()


def _nobody_postgres() -> BlobStore:
    from raincheck.blob_stores.postgres import PostgresBlobs

    return PostgresBlobs(f"postgresql://user:pass-word@127.0.0.1:{free_port()}/db", timeout_seconds=0.5)


def _nobody_redis() -> BlobStore:
    from raincheck.blob_stores.redis import RedisBlobs

    return RedisBlobs(f"redis://user:pass-word@127.0.0.1:{free_port()}/0", timeout_seconds=0.5)


def _nobody_s3() -> BlobStore:
    from raincheck.blob_stores.s3 import S3Blobs
    from support.servers.s3 import CREDENTIALS

    os.environ.update(CREDENTIALS)
    return S3Blobs("bucket", endpoint=f"http://127.0.0.1:{free_port()}", region="eu-central-1", timeout_seconds=0.5)


@pytest.mark.parametrize("make", [_nobody_postgres, _nobody_redis, _nobody_s3])
async def test_a_server_that_is_away_is_told_in_one_line_without_secrets(make: Callable[[], BlobStore]) -> None:
    blobs = make()
    await blobs.open()
    for verb in (blobs.put(blob_key(LATER), b"x"), blobs.get(blob_key(LATER), 0, 1), blobs.remove(blob_key(LATER))):
        with pytest.raises(StoreUnavailable) as caught:
            await verb
        assert "127.0.0.1" in caught.value.message
        assert "pass-word" not in caught.value.message
        assert "\n" not in caught.value.message
    await blobs.close()
    await blobs.close()
    assert isinstance(caught.value, StoreError)


@pytest.mark.full
async def test_postgres_finds_blobs_by_their_key_however_many_there_are(tmp_path: Path) -> None:
    from raincheck.blob_stores.postgres import PostgresBlobs
    from raincheck.stores.postgres.connections import quote
    from raincheck.stores.postgres.store import PostgresStore
    from raincheck.stores.shared.sql_files import load_statements
    from support.servers.postgres import PostgresServer

    needed(PostgresServer.missing())
    import psycopg

    url, schema = server_of(PostgresServer).url, name_of(tmp_path)
    store, blobs = PostgresStore(url, schema=schema), PostgresBlobs(url, schema=schema)
    await store.open()
    await store.close()
    await blobs.open()
    for _ in range(50):
        await blobs.put(blob_key(LATER), b"x")
    await blobs.close()
    given = {"key": blob_key(LATER), "first": 0, "last": 3, "before": expired_before(datetime.now(UTC)), "limit": 10}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        for name, text in load_statements("postgres", "blobs.sql").items():
            if name != "put_part":
                explained: Any = "EXPLAIN " + text.replace("raincheck.", f"{quote(schema)}.")
                plan = "\n".join(row[0] for row in connection.execute(explained, given))
                assert "Seq Scan" not in plan, f"{name}:\n{plan}"
