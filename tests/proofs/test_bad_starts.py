"""What stops a start, or the store in mid-work: one line on stderr, the exit code of design.md §5, no traceback."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.history import FUNCTIONS, TOML, History
from support.serving import Caller, Refused, Workplace, calling
from support.waiting import PATIENCE

FAILED, CONFIGURATION = 1, 2


def only_line(stderr: str) -> str:
    """The one line that the user reads; log lines may stand beside it."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("raincheck: ")]
    assert len(lines) == 1, stderr
    return lines[0]


WRONG_FILES = {
    "broken TOML": ("x = [", ["raincheck.toml", "no valid TOML", "line 1"]),
    "an unknown key": ("[server]\nprot = 3", ['"prot"', "[server]", "raincheck.toml", "did you mean port"]),
    "an unknown table": ("[serer]", ["[serer]", "raincheck.toml", "did you mean server"]),
    "a wrong value": ('[execution]\nmax_concurrency = "many"', ["'max_concurrency'", "[execution]", '"many"']),
    "an unknown kind": ('[operations.a]\nkind = "pyhton"', ["[operations.a]", "pyhton", "command"]),
    "an unknown provider": ('[state]\nprovider = "sqllite"', ["'provider'", "[state]", "sqllite"]),
    "no such function": ('[operations.a]\nkind = "python"\ntarget = "ops:nope"', ["[operations.a]", "nope"]),
    "no such module": ('[operations.a]\nkind = "python"\ntarget = "nope:a"', ["[operations.a]", "nope"]),
    "a module that exits": ('[operations.a]\nkind = "python"\ntarget = "exits:a"', ["[operations.a]", "sys.exit"]),
    "a module that fails": ('[operations.a]\nkind = "python"\ntarget = "fails:a"', ["[operations.a]", "no luck"]),
    "a placeholder of nothing": ('[operations.a]\nkind = "command"\nargv = ["echo", "{b}"]', ["[operations.a]", "{b}"]),
    "a handle tool's name": (
        '[operations.resolve_task_status]\nkind = "command"\nargv = ["true"]',
        ["resolve_task_status", "handle tool"],
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
async def test_a_wrong_configuration_stops_the_start_with_one_line(tmp_path: Path, case: str) -> None:
    toml, parts = WRONG_FILES[case]
    place = Workplace(tmp_path, toml)
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)")
    (tmp_path / "fails.py").write_text("raise ValueError('no luck')")
    code, out, err = await place.raincheck("serve")
    line = only_line(err)
    assert code == CONFIGURATION
    assert out == ""
    assert all(part in line for part in parts), line
    assert not place.database.exists()


async def test_usage_mistakes_stop_the_start_with_one_line(tmp_path: Path) -> None:
    place = Workplace(tmp_path, "")
    for arguments, env, part in [
        (("serve", "nope.toml"), {}, "nope.toml"),
        (("serve", "--port", "-1"), {}, "port"),
        (("serve", "--transport", "pigeon"), {}, "pigeon"),
        (("serve", "--nope"), {}, "--nope"),
        (("sevre",), {}, "sevre"),
        (("serve",), {"RAINCHECK_SERVER__PORT": "many"}, "RAINCHECK_SERVER__PORT"),
        (("serve",), {"RAINCHECK_SERVER__PRT": "1"}, "RAINCHECK_SERVER__PRT"),
    ]:
        code, out, err = await place.raincheck(*arguments, env=env)
        assert (code, out) == (CONFIGURATION, ""), arguments
        assert part in only_line(err)


async def make_store(place: Workplace) -> None:
    async with place.stdio() as server:
        assert (await server.run("fail", {"seconds": 0.0}))["status"] == "completed"
        server.close_stdin()
        assert await server.exited() == 0


async def test_a_corrupt_state_file_stops_the_start_and_is_left_as_it_is(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    for junk in (os.urandom(20_000), b"SQLite format 3\0" + os.urandom(20_000), b"not a database\n"):
        place.database.write_bytes(junk)
        for command in (("serve",), ("tasks", "list")):
            code, out, err = await place.raincheck(*command)
            assert (code, out) == (FAILED, "")
            assert str(place.database) in only_line(err)
        assert place.database.read_bytes() == junk


async def test_a_state_file_that_is_damaged_all_over_stops_the_start(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    await make_store(place)
    size = place.database.stat().st_size
    with place.database.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    # Its first page is whole: only what the start reads tells.
    code, out, err = await place.raincheck("serve")
    assert (code, out) == (FAILED, "")
    assert "damaged" in only_line(err)


async def test_a_state_file_whose_tasks_are_damaged_gives_clear_errors(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    await make_store(place)
    connection = sqlite3.connect(place.database)
    pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name IN ('task', 'task_count')").fetchall()
    connection.close()
    assert len(pages) > 5
    with place.database.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * 4096)
            file.write(os.urandom(4096))
    # The server may start; every call that meets the damage says so.
    async with place.http() as server, calling(server.port) as caller:
        for call in (caller.submit("fail", {"seconds": 0.0}), caller.status("x" * 27)):
            with pytest.raises(Refused) as refused:
                await asyncio.wait_for(call, PATIENCE)
            assert "damaged" in refused.value.message
            assert refused.value.error["retryable"] is False
        assert "Traceback" not in server.log
    code, out, err = await place.raincheck("tasks", "list")
    assert (code, out) == (FAILED, "")
    assert "damaged" in only_line(err)


async def test_a_state_file_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    await make_store(place)
    connection = sqlite3.connect(place.database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for command in (("serve",), ("tasks", "list")):
        code, out, err = await place.raincheck(*command)
        assert (code, out) == (FAILED, "")
        assert "99" in (line := only_line(err))
        assert "upgrade raincheck" in line


async def test_an_sqlite_file_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    connection = sqlite3.connect(place.database)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    before = place.database.read_bytes()
    code, _, err = await place.raincheck("serve")
    assert code == FAILED
    assert str(place.database) in only_line(err)
    assert place.database.read_bytes() == before


async def test_a_port_in_use_stops_the_start_before_any_task_is_taken_up(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with place.stdio(env={"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}) as accepting:
        waiting = (await accepting.submit("fail", {"seconds": 0.0}))["task_ref"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for transport in ("streamable-http", "sse"):
            code, _, err = await place.raincheck("serve", "--transport", transport, "--port", port)
            assert code == FAILED
            assert f"127.0.0.1:{port}" in (line := only_line(err))
            assert "in use" in line
    assert waiting not in History(place.history).runs


# The disk: as root a file system of its own, else the limit of a file's size, which SQLite meets the same way.


@contextmanager
def mounted(folder: Path, options: str) -> Generator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        yield
    finally:
        ctypes.CDLL(None).umount2(str(folder).encode(), 2)


async def test_a_read_only_folder_stops_the_start_with_one_line(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    with mounted(place.database.parent, "ro"):
        code, out, err = await place.raincheck("serve")
        assert (code, out) == (FAILED, "")
        assert str(place.database) in (line := only_line(err))
        assert "ead-only" in line


async def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return ballast


async def refused_submission(caller: Caller) -> Refused:
    """Submit until the store refuses: what fits into the space that SQLite has already is still taken."""
    for _ in range(200):
        try:
            await asyncio.wait_for(caller.submit("fail", {"seconds": 0.0}), PATIENCE)
        except Refused as refused:
            return refused
    raise AssertionError("a full disk took everything")


@pytest.mark.parametrize("transport", ["stdio", "streamable-http"])
async def test_a_full_disk_refuses_new_tasks_and_loses_no_old_one(tmp_path: Path, transport: str) -> None:
    place = Workplace(tmp_path, "[execution]\nlease_seconds = 1\n" + TOML, FUNCTIONS)
    with mounted(place.database.parent, "size=2m"):
        async with place.served(transport) as (server, caller):
            done = await caller.run("fail", {"seconds": 0.0})
            running = (await caller.submit("fail", {"seconds": 1.5}))["task_ref"]
            async with asyncio.timeout(PATIENCE):
                while running not in History(place.history).runs:
                    await asyncio.sleep(0.02)
            ballast = await fill(place.database.parent)
            refused = await refused_submission(caller)
            assert refused.error["retryable"] is True
            assert "disk is full" in refused.message
            # Reading goes on.
            assert await caller.status(done["task_ref"]) == done
            # The running task comes to its end while nothing can be written; its outcome waits.
            async with asyncio.timeout(PATIENCE):
                while not History(place.history).finished(running):
                    await asyncio.sleep(0.05)
            ballast.unlink()
            assert (await caller.settled(running, 20))["status"] == "completed"
            assert (await caller.run("fail", {"seconds": 0.0}))["status"] == "completed"
            assert server.pid in {run.pid for run in History(place.history).runs[running]}
            assert "Traceback" not in server.log
        async with place.stdio() as again:
            # An HTTP caller's tasks are of another scope than a stdio caller's; the operator sees them all.
            await again.request("tools/list", {})
            code, out, _ = await place.raincheck("tasks", "list", "--json")
            assert code == 0
            assert running in out


async def test_a_disk_that_is_full_at_the_start_stops_it_with_one_line(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    with mounted(place.database.parent, "size=256k"):
        await fill(place.database.parent)
        code, out, err = await place.raincheck("serve")
        assert (code, out) == (FAILED, "")
        assert "full" in only_line(err)


async def test_a_limit_on_the_file_is_a_clear_error_and_the_server_goes_on_when_it_is_lifted(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("the limits of another process are Linux's")
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with place.http() as server, calling(server.port) as caller:
        done = await caller.run("fail", {"seconds": 0.0})
        before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, before[1]))
        refused = await refused_submission(caller)
        assert f"…/{place.database.name} " in refused.message
        assert str(place.database) not in refused.message
        assert refused.error["retryable"] is True
        assert await caller.status(done["task_ref"]) == done
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert (await caller.run("fail", {"seconds": 0.0}))["status"] == "completed"
                    break
                except Refused:
                    await asyncio.sleep(0.1)
