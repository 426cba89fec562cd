"""A command line to call, and the store that it finds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from raincheck.cli.main import main
from support.command_line import CommandLine, Said, Tasks, own_imports
from support.servers.postgres import PostgresServer
from support.servers.redis import RedisServer
from support.servers.server import needed


@pytest.fixture
def raincheck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    """Call the command line in an empty folder, with an empty user state folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def call(*args: str) -> Said:
        code = main(list(args))
        captured = capsys.readouterr()
        return Said(code=code, out=captured.out, err=captured.err)

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with own_imports():
        yield call
    # A command sends the log to its own stderr, which ends with the test.
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def tasks(raincheck: CommandLine, tmp_path: Path) -> Tasks:
    """The store that the command line finds by default."""
    folder = tmp_path / "state" / "raincheck"
    folder.mkdir(parents=True, exist_ok=True)
    return Tasks(folder / "tasks.db")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    needed(PostgresServer.missing())
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    needed(RedisServer.missing())
    server = RedisServer()
    server.start()
    yield server
    server.close()
