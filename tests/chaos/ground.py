"""What the processes of a run stand on: a store and an engine, and the faults of their server."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import redis
from chaos import clocks
from chaos.clocks import Clock

from support.servers.dynamodb import CREDENTIALS, DynamoDBServer
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import Server

__all__ = ["GROUNDS", "Dynamodb", "Ground", "PostgresLocal", "Procrastinate", "RedisDocket", "Sqlite"]

# Leases that were given before it steps back last so much longer: callers wait for it (`running._SETTLE_SECONDS`).
_STEP_SECONDS = 30
_DELETE_JOBS = """
    do $$ declare place record; begin
        for place in select schemaname from pg_tables where tablename = 'procrastinate_jobs' loop
            execute format('delete from %I.procrastinate_jobs', place.schemaname);
        end loop;
    end $$
"""


class Ground:
    """A store with an engine.

    Attributes:
        name: As the pair is called.
        provider, engine: As the settings call them.
        kinds: The faults of the store that are possible beside those of the processes.
        remote: Whether processes reach it through a proxy.
    """

    name: str
    provider: str
    engine: str = "local"
    kinds: tuple[str, ...] = ()
    remote = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def missing(cls) -> str | None:
        """Why there can be none here, or None."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """Where its server listens."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start its server, if it has one."""

    async def version(self) -> str:
        """What its server is called, and which one it is."""
        raise NotImplementedError

    async def close(self) -> None:
        """End it."""

    def environment(self, port: int) -> dict[str, str]:
        """How a process reaches it that is to go through this port of the loopback."""
        raise NotImplementedError

    async def go_down(self, kind: str) -> None:
        """Begin a fault of the store."""
        raise NotImplementedError

    async def come_back(self) -> None:
        """End it: the store answers again, with what it held."""
        raise NotImplementedError

    async def flush_queue(self) -> None:
        """The engine's queue loses all that it holds."""
        raise NotImplementedError


class Sqlite(Ground):
    """Processes on one file. It has no server that could stop: another program locks the file for a while."""

    name = "sqlite + local"
    provider = "sqlite"
    kinds = ("store frozen", "file away")
    remote = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._lock: sqlite3.Connection | None = None

    @classmethod
    def missing(cls) -> str | None:
        """See `Ground.missing`."""
        return None

    @property
    def port(self) -> int:
        """None is used."""
        return 0

    def environment(self, port: int) -> dict[str, str]:
        """See `Ground.environment`."""
        return {"RAINCHECK_STATE__URL": str(self._file)}

    @property
    def _file(self) -> Path:
        return self.folder / "tasks.db"

    @property
    def _aside(self) -> Path:
        return self.folder / "aside.db"

    async def go_down(self, kind: str) -> None:
        """See `Ground.go_down`."""
        await asyncio.to_thread(self._take_file_away if kind == "file away" else self._take_lock)

    def _take_lock(self) -> None:
        self._lock = self._connected()
        self._lock.execute("begin immediate")

    def _take_file_away(self) -> None:
        # With a connection of ours there is a journal, whoever is killed meanwhile.
        self._lock = self._connected()
        self._lock.execute("select count(*) from task").fetchall()
        self._file.rename(self._aside)

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=30, isolation_level=None, check_same_thread=False)

    async def come_back(self) -> None:
        """See `Ground.come_back`."""
        if self._aside.exists():
            self._aside.rename(self._file)
        lock, self._lock = self._lock, None
        if lock is not None:
            await asyncio.to_thread(lock.close)

    async def version(self) -> str:
        """See `Ground.version`."""
        return f"SQLite {sqlite3.sqlite_version}"

    async def close(self) -> None:
        """See `Ground.close`."""
        await self.come_back()


class _Served(Ground):
    """A store with a private server of its own."""

    make: Callable[[], Server]
    kind: type[Server]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = self.make()
        self._frozen = self._stepped = False
        self._clock: Clock | None = None
        self._clock_folder: tempfile.TemporaryDirectory[str] | None = None
        if "store's clock" in self.kinds and clocks.missing() is None:
            # Where a server that runs as another user reaches it.
            self._clock_folder = tempfile.TemporaryDirectory(prefix="raincheck-store-clock-")
            Path(self._clock_folder.name).chmod(0o755)
            self._clock = Clock(Path(self._clock_folder.name) / "clock")
            self.server.environment |= self._clock.environment()

    @classmethod
    def missing(cls) -> str | None:
        """See `Ground.missing`."""
        missing: Callable[[], str | None] = getattr(cls.kind, "missing")  # noqa: B009  each kind has its own
        return missing()

    @property
    def port(self) -> int:
        """See `Ground.port`."""
        return self.server.port

    async def start(self) -> None:
        """See `Ground.start`."""
        await asyncio.to_thread(self.server.start)

    async def close(self) -> None:
        """See `Ground.close`."""
        await asyncio.to_thread(self.server.close)
        if self._clock_folder is not None:
            self._clock_folder.cleanup()

    async def go_down(self, kind: str) -> None:
        """See `Ground.go_down`."""
        if kind == "store frozen":
            self._frozen = True
            self.server.freeze()
        elif kind == "store's clock":
            self._stepped = True
            if self._clock is not None:
                self._clock.shift(_STEP_SECONDS)
        else:
            await asyncio.to_thread(self.server.kill if kind == "store killed" else self.stop_at_once)

    def stop_at_once(self) -> None:
        """Shut the server down as its operator would who is in a hurry."""
        self.server.stop()

    async def come_back(self) -> None:
        """See `Ground.come_back`."""
        if self._frozen:
            self._frozen = False
            self.server.thaw()
        elif self._stepped:
            self._stepped = False
            if self._clock is not None:
                self._clock.shift(0)
        else:
            await asyncio.to_thread(self.server.start)


class PostgresLocal(_Served):
    """PostgreSQL, and each process looks for tasks itself."""

    name = "postgres + local"
    provider = "postgres"
    kinds = ("store stopped", "store killed", "store frozen", "store's clock")
    kind = PostgresServer
    make = PostgresServer
    server: PostgresServer

    async def version(self) -> str:
        """See `Ground.version`."""
        async with await psycopg.AsyncConnection.connect(self.server.url, connect_timeout=5) as connection:
            number = connection.info.server_version
        return f"PostgreSQL {number // 10000}.{number % 10000}"

    def environment(self, port: int) -> dict[str, str]:
        """See `Ground.environment`."""
        return {"RAINCHECK_STATE__URL": f"postgresql://postgres@127.0.0.1:{port}/postgres"}

    def stop_at_once(self) -> None:
        """See `_Served.stop_at_once`: recovery at the next start."""
        self.server.stop_at_once()


class Procrastinate(PostgresLocal):
    """PostgreSQL, with its queue in the same database."""

    name = "postgres + procrastinate"
    engine = "procrastinate"
    kinds = (*PostgresLocal.kinds, "queue flushed")

    async def flush_queue(self) -> None:
        """See `Ground.flush_queue`."""
        with contextlib.suppress(psycopg.OperationalError):  # it may be down: another fault
            async with await psycopg.AsyncConnection.connect(self.server.url, connect_timeout=5) as connection:
                await connection.execute(_DELETE_JOBS)


class RedisDocket(_Served):
    """Redis with an append-only file; the queue is in another database of the same server."""

    name = "redis + docket"
    provider = "redis"
    engine = "docket"
    kinds = ("store stopped", "store killed", "store frozen", "store's clock", "queue flushed")
    kind = RedisServer
    make = RedisServer
    server: RedisServer

    async def version(self) -> str:
        """See `Ground.version`."""

        def ask() -> str:
            with contextlib.closing(self.server.client()) as client:
                answer: dict[str, Any] = client.info("server")  # pyright: ignore[reportUnknownMemberType]
                return f"Redis {answer['redis_version']}"

        return await asyncio.to_thread(ask)

    def environment(self, port: int) -> dict[str, str]:
        """See `Ground.environment`."""
        where = f"redis://127.0.0.1:{port}"
        return {"RAINCHECK_STATE__URL": f"{where}/0", "RAINCHECK_EXECUTION__QUEUE_URL": f"{where}/1"}

    async def flush_queue(self) -> None:
        """See `Ground.flush_queue`."""
        with contextlib.suppress(redis.RedisError):  # it may be down: another fault
            await asyncio.to_thread(self.server.flush, 1)


class Dynamodb(_Served):
    """DynamoDB Local. What it holds is gone with its process, so it is frozen and never killed."""

    name = "dynamodb + local"
    provider = "dynamodb"
    kinds = ("store frozen",)
    kind = DynamoDBServer
    make = DynamoDBServer

    async def version(self) -> str:
        """See `Ground.version`."""
        return "DynamoDB Local"

    def environment(self, port: int) -> dict[str, str]:
        """See `Ground.environment`."""
        return {"RAINCHECK_STATE__URL": f"http://127.0.0.1:{port}", **CREDENTIALS}


GROUNDS: Mapping[str, type[Ground]] = {
    ground.name: ground for ground in (Sqlite, PostgresLocal, Procrastinate, RedisDocket, Dynamodb)
}
"""The pairs that the suite runs on, by name."""
