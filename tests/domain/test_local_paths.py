"""File paths of this machine in what callers are told."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raincheck.domain.local_paths import without_folders
from raincheck.domain.redaction import REDACTED, secret_texts, without
from raincheck.errors import StoreUnavailable
from raincheck.mcp.wire.store_errors import for_callers
from raincheck.operations.context import TaskContext
from support.lab import Lab
from support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("No such file or directory: '/usr/share/app/model.bin'", "No such file or directory: '…/model.bin'"),
        ("The task store /home/ada/.local/state/raincheck/tasks.db is full.", "The task store …/tasks.db is full."),
        ("cannot import name 'x' from 'ops' (/usr/lib/ops.py)", "cannot import name 'x' from 'ops' (…/ops.py)"),
        ("/etc/app/a.conf: permission denied", "…/a.conf: permission denied"),
        ("a/b, 1/2, and/or, C:\\Users\\ada\\a.txt", "a/b, 1/2, and/or, …/a.txt"),
        ("x" * 100_000 + " /usr/" + "y" * 100_000, "x" * 100_000 + " …/" + "y" * 100_000),
        (
            "GET /v1/users/7 answered 404; https://a.example/usr/7",
            "GET /v1/users/7 answered 404; https://a.example/usr/7",
        ),
    ],
)
def test_a_path_is_cut_to_its_last_part_and_nothing_else_is(text: str, told: str) -> None:
    assert without_folders(text) == told


async def test_a_failed_tasks_error_names_no_folder_that_its_caller_did_not_name(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "tasks.db")
    secret = tmp_path / "models" / "weights.bin"

    @lab.operation("read")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> str:
        return io.open(arguments.get("file") or secret).read()  # noqa: UP020

    async with lab.service() as service:
        told: list[str] = []
        for arguments in ({}, {"file": str(secret)}):
            ref = (await service.registry.submit("read", arguments, scope="ada")).task.task_ref
            task = await service.registry.wait(ref, scope="ada", seconds=PATIENCE)
            assert task.outcome is not None
            assert task.outcome.error is not None
            told.append(task.outcome.error.message)
    assert told == [f"[Errno 2] No such file or directory: {path!r}" for path in ("…/weights.bin", str(secret))]


def test_a_store_that_fails_is_not_placed(caplog: pytest.LogCaptureFixture) -> None:
    path = "/home/ada/.local/state/raincheck/tasks.db"
    told = for_callers(StoreUnavailable(f"The task store {path} cannot grow: the disk is full."))
    assert told.message == "The task store …/tasks.db cannot grow: the disk is full."
    assert path in caplog.text, "whoever runs the server finds it in the log"


def test_many_paths_of_a_large_call_are_looked_up_once() -> None:
    # With one dump of the parameters for each path this would take minutes.
    path = f"/{Path(__file__).parts[1]}/x"
    sent = f"{path} " * 100_000
    assert without_folders(sent, {"path": sent}) == sent


async def test_a_secret_is_withheld_before_a_message_is_cut(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "tasks.db")
    key = "".join(f"{number:05}" for number in range(700))

    @lab.operation("parse")
    async def _(arguments: Mapping[str, Any], context: TaskContext) -> None:
        raise ValueError(f"cannot parse {arguments['key']}")

    schema = {"type": "object", "properties": {"key": {"type": "string", "writeOnly": True}}}
    operation: Any = lab.operations["parse"]
    operation.executor.parameters_schema = schema
    lab.operations["parse"] = replace(operation)
    async with lab.service() as service:
        ref = (await service.registry.submit("parse", {"key": key}, scope="a")).task.task_ref
        while not (task := await service.registry.wait(ref, scope="a", seconds=PATIENCE)).terminal:
            pass
    assert task.outcome is not None
    assert task.outcome.error is not None
    assert "cannot parse" in task.outcome.error.message
    assert key[:50] not in task.outcome.error.message


def test_where_too_much_is_secret_nothing_is_told() -> None:
    many = secret_texts({"keys": [f"a{number:04}" for number in range(100_000)]}, {"keys"})
    assert len(many) < 5000
    assert without("a4711 is no key", many) == REDACTED
