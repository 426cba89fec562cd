"""The disk under a SQLite store fails while it is in use: told as what it is, in time, and over when it is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stores.processes import Child, child

from support import disks
from support.disks import Disk
from support.servers.server import needed

# Of each call's time, two of the child's bound: an insert and a look.
ROUNDS = "1.0"
BOUND_SECONDS = 1.0


async def test_a_disk_that_fails_is_told_as_such_in_time_and_survived(tmp_path: Path) -> None:
    needed(disks.missing())
    path = tmp_path / "data" / "tasks.db"
    path.parent.mkdir()
    disk = Disk(path.parent, tmp_path / "disk")

    def called(other: Child) -> dict[str, Any]:
        other.go()
        return json.loads(other.line())

    with child("call_all_the_time", path, ROUNDS, environment=disk.environment()) as other:
        assert called(other)["told"] == ["done"]
        disk.become("reads fail")
        unreadable = called(other)
        disk.become("read-only")
        read_only = called(other)
        disk.become("well")
        # What failed last may still be under way.
        called(other)
        assert called(other)["told"] == ["done"]
    failed = f"StoreUnavailable: The task store {path} cannot be read or written (I/O error)."
    assert failed in unreadable["told"]
    assert {*unreadable["told"]} <= {"done", failed}
    assert f"StoreUnavailable: The task store {path} is read-only." in read_only["told"]
    assert all(each.startswith(("done", "StoreUnavailable: ")) for each in read_only["told"]), read_only
    # A store that cannot be written is not waited for any longer than one that is locked; a busy machine takes longer.
    assert max(unreadable["longest"], read_only["longest"]) < 5 * BOUND_SECONDS, (unreadable, read_only)
