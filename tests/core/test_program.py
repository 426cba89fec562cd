"""The default file of tasks is its program's own: whatever servers are called, and however they are started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raincheck.config.loading import load_settings
from raincheck.config.program import Program, claim_store
from raincheck.encryption.cipher import PayloadCipher
from raincheck.encryption.task_store import EncryptedTaskStore
from raincheck.errors import ConfigurationError
from raincheck.runtime.service import Service, ServiceSettings
from raincheck.stores.sqlite.store import SqliteStore

FileOf = Callable[..., str]

_OWN, _OTHER = Program(file=Path("/srv/own.py")), Program(file=Path("/srv/other.py"))

_SERVER = """
from mcp.server.mcpserver import MCPServer
from raincheck import Raincheck
rc = Raincheck()
server = MCPServer({name}extensions=[rc])
if __name__ == "__main__":
    print(rc.settings_of_server().database)
"""


@pytest.fixture
def file_of(tmp_path: Path) -> FileOf:
    """Where a program keeps its tasks, by its path and how its server is called."""

    def file_of(path: str, name: str = "", command: tuple[str, ...] = (), cwd: str = ".") -> str:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(_SERVER.format(name=name and f"{name}, "))
        done = subprocess.run(
            [sys.executable, *(command or (str(file),))],
            capture_output=True,
            text=True,
            cwd=tmp_path / cwd,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return file_of


@pytest.mark.parametrize("name", ["'demo'", "", "'报告服务'", f"'{'x' * 60}'"])
def test_two_programs_of_one_name_have_two_files(file_of: FileOf, name: str) -> None:
    assert file_of("a/server.py", name) != file_of("b/server.py", name)


def test_two_servers_of_one_program_have_two_files(file_of: FileOf) -> None:
    names = "'报告服务'", "'天気サーバー'", f"'{'x' * 50}a'", f"'{'x' * 50}b'"
    assert len({file_of("server.py", name) for name in names}) == len(names)


def test_one_program_has_one_file_however_it_is_started(file_of: FileOf) -> None:
    found = file_of("a/server.py", "'demo'")
    assert file_of("a/server.py", "'demo'", ("server.py",), cwd="a") == found
    assert file_of("a/server.py", "'demo'", ("-m", "a.server")) == found
    as_module = "import server; print(server.rc.settings_of_server().database)"
    assert file_of("a/server.py", "'demo'", ("-c", as_module), cwd="a") == found


def test_configurations_of_one_folder_have_two_files_however_long_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("a" * 60)
    folder.mkdir()
    found: dict[str, Path] = {}
    for name in ("reports-a.toml", "reports-b.toml"):
        (folder / name).write_text('[server]\nname = "reports"\n')
        found[name] = load_settings(folder / name, environ={}).database
    assert len(set(found.values())) == 2
    monkeypatch.chdir(folder)
    (folder / "link.toml").symlink_to("reports-a.toml")
    assert load_settings(Path("reports-a.toml"), environ={}).database == found["reports-a.toml"]
    assert load_settings(Path("link.toml"), environ={}).database == found["reports-a.toml"]
    # What people call it is not where it is.
    (folder / "reports-a.toml").write_text('[server]\nname = "quarterly reports"\n')
    assert load_settings(Path("reports-a.toml"), environ={}).database == found["reports-a.toml"]


async def test_a_file_with_the_mark_of_another_program_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    await claim_store(store, _OWN)
    await claim_store(store, _OWN)
    await store.close()
    foreign = Service(SqliteStore(tmp_path / "tasks.db"), {}, ServiceSettings(program=_OTHER))
    with pytest.raises(
        ConfigurationError, match=r"tasks of another one \(/srv/own.py\): name a file .* Raincheck\(store=PATH\)"
    ):
        await foreign.start()
    named = Service(SqliteStore(tmp_path / "tasks.db"), {}, ServiceSettings())
    await named.start()
    await named.stop()


async def test_the_mark_outlives_every_key(tmp_path: Path) -> None:
    file = SqliteStore(tmp_path / "tasks.db")
    sealed = EncryptedTaskStore(file, PayloadCipher([os.urandom(32)]))
    await sealed.open()
    await claim_store(sealed, _OWN)
    # Neither sealed by a key that is to be changed one day, nor refused for being from before there was one.
    await claim_store(file, _OWN)
    await sealed.close()
