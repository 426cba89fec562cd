"""Files of the state that others may have planted, or may use."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from raincheck.blob_stores.files import FileBlobs
from raincheck.errors import StoreUnusable
from raincheck.stores.shared.private_files import check_file
from raincheck.stores.sqlite.store import SqliteStore

ANYBODYS = [0o777, 0o1777, 0o775]
NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def opened(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A database that somebody wants to have filled, or a file that somebody wants to have overwritten."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder / "planted"


@pytest.mark.parametrize("folder_mode", ANYBODYS)
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
async def test_a_planted_link_is_not_followed(tmp_path: Path, theirs: Path, folder_mode: int, suffix: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(folder_mode)
    for plant in (Path.symlink_to, Path.hardlink_to):
        link = shared / f"tasks.db{suffix}"
        theirs.write_bytes(b"")
        plant(link, theirs)
        with pytest.raises(StoreUnusable, match="is a link or no plain file, in a folder that others can write to"):
            await opened(shared / "tasks.db")
        link.unlink()
        assert theirs.read_bytes() == b""


async def test_a_link_in_a_folder_of_ones_own_is_ones_wish(tmp_path: Path, theirs: Path) -> None:
    tmp_path.chmod(0o700)
    await opened(theirs)
    (tmp_path / "tasks.db").symlink_to(theirs)
    await opened(tmp_path / "tasks.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_file_is_not_taken_where_others_can_write(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    file = shared / "tasks.db"
    file.write_bytes(b"")
    os.chown(file, NOBODY, NOBODY)
    check_file(file)
    shared.chmod(0o1777)
    with pytest.raises(StoreUnusable, match="is of another user"):
        check_file(file)


async def test_what_others_could_use_is_closed_to_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, folder = tmp_path / "tasks.db", tmp_path / "tasks.db.results"
    path.write_bytes(b"")
    path.chmod(0o666)
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    await opened(path)
    blobs = FileBlobs(folder)
    await blobs.open()
    await blobs.close()
    assert (mode(path), mode(folder)) == (0o600, 0o700)
    assert "others could use" in caplog.text


async def test_a_planted_link_in_the_place_of_results_is_not_followed(tmp_path: Path, theirs: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    theirs.mkdir()
    (shared / "results").symlink_to(theirs)
    with pytest.raises(StoreUnusable, match="is a link, in a folder that others can write to"):
        await FileBlobs(shared / "results").open()
    key = "2099010100-" + "0" * 32
    own = FileBlobs(tmp_path / "own")
    await own.put(key, b"x")
    (tmp_path / "own" / key[:10] / key).unlink()
    (theirs / "secret").write_bytes(b"secret")
    (tmp_path / "own" / key[:10] / key).symlink_to(theirs / "secret")
    with pytest.raises(Exception, match="cannot be kept"):
        await own.get(key, 0, 6)


async def test_another_programs_file_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text, database = tmp_path / "passwd", tmp_path / "theirs.db"
    text.write_text("root:x:0:0:root:/root:/bin/sh\n" * 40)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE theirs (body)")
    for file in (text, database):
        file.chmod(0o644)
        before = file.read_bytes()
        with pytest.raises(StoreUnusable):
            await opened(file)
        assert (mode(file), file.read_bytes()) == (0o644, before)
    assert "others could use" not in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"passwd", "theirs.db"}
