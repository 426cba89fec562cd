"""A private PostgreSQL server, and a pooler before it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from support.servers.server import Server

__all__ = ["PgBouncer", "PostgresServer"]

_CLUSTER = ("-E", "UTF8", "--no-locale", "--no-sync")


def _programs() -> Path | None:
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else None


class PostgresServer(Server):
    """PostgreSQL with a cluster of its own.

    Args:
        fsync: Whether it waits for the disk. Off, its data survives the death of the server, not of the machine.
        options: Further settings: `PostgresServer("max_connections=20")`.
    """

    def __init__(self, *options: str, fsync: bool = False) -> None:
        super().__init__()
        self._options = options
        self._fsync = fsync

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here, or None."""
        return None if _programs() else "the PostgreSQL server (Debian: postgresql)"

    @property
    def url(self) -> str:
        """Its database, as its superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """See `Server.start`."""
        programs = _programs()
        assert programs is not None
        data = self.folder / "data"
        if not data.exists():
            self._make_cluster(programs, data)
        settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
            f"fsync={'on' if self._fsync else 'off'}",
            "shared_buffers=64MB",
            "max_connections=200",
            *self._options,
        ]
        self._run(
            [str(programs / "postgres"), "-D", str(data), *(part for each in settings for part in ("-c", each))],
            user=_user(),
        )
        self._wait(lambda: self._ready(programs))

    def stop(self) -> None:
        """See `Server.stop`: without waiting for its clients to go."""
        self._end(signal.SIGINT)

    def stop_at_once(self) -> None:
        """An immediate shutdown: no checkpoint, recovery at the next start."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """See `Server.kill`: every process of the server, as a power cut would."""
        processes = self._processes()
        self._send(signal.SIGKILL, processes)
        psutil.wait_procs(processes[1:], timeout=5)
        self._end(signal.SIGKILL)
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """See `Server.freeze`."""
        self._send(signal.SIGSTOP, self._processes())

    def thaw(self) -> None:
        """See `Server.thaw`."""
        self._send(signal.SIGCONT, self._processes())

    def _processes(self) -> list[psutil.Process]:
        # Each child of the server is a process group of its own. The parent comes first, and stands still: it must not
        # start further children meanwhile.
        if self._process is None:
            return []
        try:
            server = psutil.Process(self._process.pid)
            server.suspend()
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _send(self, number: signal.Signals, processes: list[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _make_cluster(self, programs: Path, data: Path) -> None:
        user = _user()
        if user is not None:
            shutil.chown(self.folder, user)
        subprocess.run(
            [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", *_CLUSTER],
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )

    def _ready(self, programs: Path) -> bool:
        command = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(command, check=False).returncode == 0


class PgBouncer(Server):
    """A pooler before a server: each transaction goes to whichever of its few sessions is free."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__()
        self._server = server

    @staticmethod
    def program() -> str | None:
        """Where it is installed, or None."""
        return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

    @property
    def url(self) -> str:
        """The server's database by way of the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """See `Server.start`."""
        program = self.program()
        assert program is not None
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={self._server.port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 3\n"
        )
        user = _user()
        if user is not None:
            shutil.chown(self.folder, user)
            shutil.chown(settings, user)
        self._run([program, str(settings)], user=user)
        self._wait(self._listens)


def _user() -> str | None:
    # PostgreSQL refuses to run as root.
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"
