"""`POST /callbacks/{token}` on real `raincheck serve` processes that share one store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from raincheck.stores.sqlite.store import SqliteStore
from support.serving import HttpCaller, HttpServer, Workplace, calling

FUNCTIONS = '''
from raincheck import TaskContext


async def approval(context: TaskContext) -> None:
    """Ask a person."""
    with open("addresses.txt", "a") as file:
        print(await context.callback_url(), file=file, flush=True)
    await context.await_external()
'''
TOML = """
[server]
public_url = "http://tools.example.com/there"

[execution]
lease_seconds = 1
drain_seconds = 0
max_result_bytes = 40000

[operations.approval]
kind = "python"
target = "ops:approval"
mode = "task"
"""


class Desk:
    """A caller of the server, and the addresses that its tasks were given."""

    def __init__(self, workplace: Workplace, server: HttpServer, caller: HttpCaller) -> None:
        self.workplace = workplace
        self.server = server
        self.caller = caller
        self._taken = 0

    async def waiting(self) -> tuple[str, str]:
        """A task that waits, and its token."""
        task_ref = (await self.caller.submit("approval"))["task_ref"]
        file = self.workplace.folder / "addresses.txt"
        while not file.exists() or len(lines := file.read_text().splitlines()) <= self._taken:
            await self.caller.status(task_ref, 0.05)
        self._taken += 1
        address = lines[-1]
        # The address is out before the task is handed over: a worker that dies between the two has lost the task.
        store = SqliteStore(self.workplace.database)
        await store.open()
        while (stored := await store.get(task_ref)) is None or not stored.awaiting_external:
            await asyncio.sleep(0.01)
        await store.close()
        assert address.startswith("http://tools.example.com/there/callbacks/")
        return task_ref, address.rpartition("/")[2]

    async def post(self, token: str, body: Any, *, method: str = "POST", port: int | None = None) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx2.AsyncClient() as client:
            return await client.request(
                method,
                f"http://127.0.0.1:{port or self.server.port}/callbacks/{token}",
                content=content,
                # It is called from outside, under whatever name that goes by.
                headers={"host": "tools.example.com", "origin": "https://elsewhere.example.com"},
            )


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[Desk]:
    workplace = Workplace(folder, TOML, FUNCTIONS)
    async with workplace.http() as server, calling(server.port) as caller:
        yield Desk(workplace, server, caller)


WRONG = [
    pytest.param(b"", 400, "not JSON", id="empty"),
    pytest.param(b"status=completed", 400, "not JSON", id="a form"),
    pytest.param(b'{"status": "completed", "result": NaN}', 400, "not JSON", id="NaN"),
    pytest.param(b"[" * 30_000, 400, "nested too deeply", id="nested without end"),
    pytest.param(
        b'{"status": "completed", "result": ' + b"[" * 64 + b"]" * 64 + b"}", 400, "at most 64 levels", id="nested"
    ),
    pytest.param(b'{"status": "completed", "result": 1e999}', 400, "a number beyond", id="an infinite number"),
    pytest.param(
        b'{"status": "running", "progress": {"fraction": 1e999}}', 400, "a number beyond", id="infinitely far"
    ),
    pytest.param(
        b'{"status": "running", "progress": {"fraction": ' + b"1" * 400 + b"}}", 400, "a number beyond", id="400 digits"
    ),
    pytest.param(
        b'{"status": "failed", "error": {"message": "x", "details": {"n": -1e400}}}',
        400,
        "a number beyond",
        id="in details",
    ),
    pytest.param([], 400, "must be a JSON object", id="a list"),
    pytest.param({}, 400, "must be one of completed, failed, running", id="no status"),
    pytest.param({"status": "done"}, 400, "must be one of", id="another status"),
    pytest.param({"status": ["failed"]}, 400, "must be one of", id="a list of statuses"),
    pytest.param({"status": "completed", "outcome": 1}, 400, "unknown key 'outcome'; allowed", id="an unknown key"),
    pytest.param({"status": "completed", "error": {"message": "x"}}, 400, '"error" goes with', id="both"),
    pytest.param({"status": "failed", "result": 1}, 400, '"result" goes with', id="a failure with a result"),
    pytest.param({"status": "failed"}, 400, '"error" must be an object', id="no error"),
    pytest.param({"status": "failed", "error": {"message": " "}}, 400, '"error.message"', id="no message"),
    pytest.param({"status": "failed", "error": {"message": "x", "why": 1}}, 400, "unknown key 'why'", id="error key"),
    pytest.param({"status": "failed", "error": {"message": "x", "code": 7}}, 400, '"error.code"', id="a code"),
    pytest.param({"status": "failed", "error": {"message": "x", "retryable": 1}}, 400, '"error.retryable"', id="retry"),
    pytest.param({"status": "failed", "error": {"message": "x", "details": []}}, 400, '"error.details"', id="details"),
    pytest.param({"status": "running"}, 400, '"progress" must be an object', id="no progress"),
    pytest.param({"status": "running", "progress": {"fraction": 2}}, 400, "from 0 to 1", id="too far"),
    pytest.param({"status": "running", "progress": {"fraction": True}}, 400, "from 0 to 1", id="a boolean"),
    pytest.param({"status": "running", "progress": {"message": 3}}, 400, '"progress.message"', id="a number"),
    pytest.param({"status": "completed", "result": "x" * 45_000}, 413, "larger than 40000 bytes", id="a large result"),
    pytest.param({"status": "completed", "result": "x" * 90_000}, 413, "the body is larger", id="a large body"),
]


async def test_a_wrong_call_gets_one_clear_line_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        task_ref, token = await desk.waiting()
        # The task may just be settling down to its wait.
        unseen = {"poll_after_seconds": 0, "updated_at": "", "after": ""}
        before = await desk.caller.status(task_ref) | unseen
        for body, status, message in (each.values for each in WRONG):
            answer = await desk.post(token, body)
            assert answer.status_code == status, answer.text
            assert message in answer.json()["message"]  # pyright: ignore[reportOperatorIssue]
            assert "\n" not in answer.json()["message"]
        got = await desk.post(token, b"", method="GET")
        assert (got.status_code, got.headers["allow"]) == (405, "POST")
        assert await desk.caller.status(task_ref) | unseen == before
        # An unknown token gets one answer, whatever else is wrong.
        unknown = {
            (answer.status_code, answer.text)
            for answer in [
                await desk.post("nobody", {"status": "completed"}),
                await desk.post("nobody", b"{"),
                await desk.post("x" * 2000, {"status": "completed"}),
                await desk.post(f"{token}/", {"status": "completed"}),
                await desk.post(token.swapcase(), {"status": "completed"}),
                await desk.post("%00%ff", {"status": "completed"}),
                await desk.post("", {"status": "completed"}),
            ]
        }
        assert len(unknown) == 1
        assert unknown.pop()[0] == 404

        assert (await desk.post(token, {"status": "running", "progress": {"fraction": 0.5}})).status_code == 200
        progress = (await desk.caller.status(task_ref))["progress"]
        assert progress == {"fraction": 0.5, "message": None}
        assert (await desk.post(token, {"status": "completed", "result": [1, {"ä": None}]})).status_code == 200
        status = await desk.caller.status(task_ref)
        assert (status["status"], status["result"]) == ("completed", [1, {"ä": None}])
        again = await desk.post(token, {"status": "failed", "error": {"message": "no"}})
        assert again.status_code == 410
        assert (await desk.caller.status(task_ref))["result"] == [1, {"ä": None}]

        failing, other_token = await desk.waiting()
        error = {"message": "the build broke", "code": "E7", "retryable": True, "details": {"step": "lint"}}
        assert (await desk.post(other_token, {"status": "failed", "error": error})).status_code == 200
        assert (await desk.caller.status(failing))["error"] == {
            "code": "operation_failed",
            "message": "the build broke",
            "retryable": True,
            "details": {"step": "lint", "code": "E7"},
        }
        assert token not in desk.server.log
        assert other_token not in desk.server.log


async def test_any_replica_takes_the_call_once_and_a_killed_worker_does_not_matter(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk, desk.workplace.http() as replica, calling(replica.port) as other:
        _, cancelled = first = await desk.waiting()
        await desk.caller.call("cancel_background_task", {"task_ref": first[0]})
        assert (await desk.post(cancelled, {"status": "completed"}, port=replica.port)).status_code == 410

        task_ref, token = await desk.waiting()
        await desk.server.kill()
        answer = await desk.post(token, {"status": "completed", "result": "yes"}, port=replica.port)
        assert answer.status_code == 200
        status = await other.status(task_ref)
        assert (status["status"], status["result"]) == ("completed", "yes")
        assert len((tmp_path / "addresses.txt").read_text().splitlines()) == 2
