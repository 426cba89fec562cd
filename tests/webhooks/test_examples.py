"""The receiver and the configuration that docs/webhooks.md shows, as real processes; and the message that it shows."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from docs.pages import DOCS, EXAMPLES, blocks
from webhooks.receiver import SECRET

from raincheck.domain.task import Outcome, Task, TaskStatus
from raincheck.webhooks.payload import message_of
from raincheck.webhooks.signing import secret_of
from support.serving import Workplace, calling
from support.waiting import PATIENCE

FOLDER = EXAMPLES / "webhooks"


async def test_the_example_receiver_verifies_what_the_example_server_sends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    receiver = await asyncio.create_subprocess_exec(
        *(sys.executable, str(FOLDER / "receiver.py"), str(port)),
        env=os.environ | {"WEBHOOK_SECRET": secret_of(SECRET, f"http://127.0.0.1:{port}/")},
        stdout=asyncio.subprocess.PIPE,
    )
    assert receiver.stdout is not None
    try:
        assert (await asyncio.wait_for(receiver.stdout.readline(), PATIENCE)).split()[-1].decode() == str(port)
        variables = {"WEBHOOK_SECRET": SECRET, "COUNT_WEBHOOK": f"http://127.0.0.1:{port}/own"}
        place = Workplace(tmp_path, (FOLDER / "raincheck.toml").read_text())
        async with place.http(env=variables) as server, calling(server.port) as caller:
            plain = await caller.submit("count", {"file": str(FOLDER / "receiver.py")})
            line = (await asyncio.wait_for(receiver.stdout.readline(), PATIENCE)).decode()
            assert line.startswith(f"task.completed {plain['task_ref']} ")
            assert str((FOLDER / "receiver.py").stat().st_size) in line
            both = await caller.submit("count", {"file": "/no/such"}, callback_url=f"http://127.0.0.1:{port}/theirs")
            line = (await asyncio.wait_for(receiver.stdout.readline(), PATIENCE)).decode()
            assert line.startswith(f"task.failed {both['task_ref']} ")
    finally:
        receiver.kill()
        await receiver.wait()


def test_the_message_on_the_page_is_the_one_that_is_sent() -> None:
    (shown,) = (block for block in blocks(DOCS / "webhooks.md") if block.language == "json")
    at = datetime(2026, 11, 22, 10, tzinfo=UTC)
    task = Task(
        task_ref="pQ5f0YyV7mIvJX3u1GqJ0oQmC4s",
        scope="local",
        operation_type="report",
        arguments={"secret": "words"},
        created_at=at,
        updated_at=at + timedelta(seconds=7),
        deadline_at=at + timedelta(hours=1),
        settled_at=at + timedelta(seconds=7),
        ttl_seconds=60,
        status=TaskStatus.COMPLETED,
        outcome=Outcome(value={"pages": 2, "words": 5}),
    )
    assert message_of(task) == json.loads(shown.code)
