"""A private Redis (or Valkey) server."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

import redis

from support.servers.server import Server

__all__ = ["RedisServer"]


def _program() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer(Server):
    """Redis with an append-only file, so that a killed one comes back with what it had acknowledged.

    Args:
        options: Further settings, as on its command line: `RedisServer("--maxmemory-policy", "allkeys-lru")`.
        appendonly: Whether it has that file.
        password: What it asks for, None for nothing.
    """

    def __init__(self, *options: str, appendonly: bool = True, password: str | None = None) -> None:
        super().__init__()
        self._options = options if password is None else (*options, "--requirepass", password)
        self._appendonly = appendonly
        self._password = password

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here, or None."""
        return None if _program() else "redis-server (Debian: redis-server)"

    @property
    def url(self) -> str:
        """Its database 0."""
        return self.database(0)

    def database(self, number: int) -> str:
        """One of its databases; they share nothing but the server."""
        return f"redis://127.0.0.1:{self.port}/{number}"

    def start(self) -> None:
        """See `Server.start`."""
        program = _program()
        assert program is not None
        persistence = ("--appendonly", "yes" if self._appendonly else "no", "--save", "")
        place = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        self._run([program, *place, *persistence, "--loglevel", "warning", *self._options])
        self._wait(self._answers)

    def client(self, database: int = 0) -> Any:
        """A `redis.Redis` of the test's own; close it."""
        return redis.Redis(port=self.port, db=database, password=self._password, socket_timeout=5)

    def flush(self, database: int) -> None:
        """Everything in one database is gone."""
        with contextlib.closing(self.client(database)) as client:
            client.flushdb()

    def _answers(self) -> bool:
        try:
            with contextlib.closing(self.client()) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
