"""A process is ready for work where its store takes tasks: to be read is not enough."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest
from stores.conftest import MakeRedis

from raincheck.runtime import service as services
from raincheck.runtime.service import Service
from support.lab import Lab
from support.servers.redis import RedisServer
from support.waiting import PATIENCE

NOT_AVAILABLE = "the task store is not available"

# Another process: this one would lose its locks on the file when it closes it.
DAMAGE = """
import os, sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    # What is in the journal is not read from the file.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
connection.close()
with open(sys.argv[1], "r+b") as file:
    file.seek(4096)
    file.write(os.urandom(os.path.getsize(sys.argv[1]) - 4096))
"""


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(services, "_READY_SECONDS", 0.0)


async def becomes(service: Service, wanted: str | None) -> None:
    async with asyncio.timeout(PATIENCE):
        while await service.unready(5.0) != wanted:
            await asyncio.sleep(0.05)


async def test_a_process_is_not_ready_where_its_server_can_only_be_read(
    redis_server: RedisServer, make_redis: MakeRedis, tmp_path: Path
) -> None:
    async with Lab(tmp_path).service(store=make_redis(redis_server.url)) as service:
        await becomes(service, None)
        with contextlib.closing(redis_server.client()) as client:
            client.replicaof("127.0.0.1", "1")
            assert await service.unready(5.0) == NOT_AVAILABLE
            client.replicaof("NO", "ONE")
            await becomes(service, None)


async def test_a_process_is_not_ready_where_its_file_is_damaged_or_gone(path: Path) -> None:
    async with Lab(path).service() as service:
        await becomes(service, None)
        aside = path.with_name("aside")
        path.rename(aside)
        assert await service.unready(5.0) == NOT_AVAILABLE
        aside.rename(path)
        await becomes(service, None)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", DAMAGE, str(path), env=os.environ)
        assert await process.wait() == 0
        await becomes(service, NOT_AVAILABLE)
