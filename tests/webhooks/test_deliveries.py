"""Every end of a task is told, at least once: by real services, to real receivers that fail, hang and lie."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from operations.http_server import answer
from webhooks.receiver import FINE, SECRET, Receiver, receiving

from raincheck.errors import OperationFailed
from raincheck.operations.context import TaskContext
from raincheck.outgoing.rules import HostRule
from raincheck.webhooks.delivery import PENDING
from raincheck.webhooks.rules import WebhookRules
from support.lab import Lab

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def rules(*receivers: Receiver, **values: Any) -> WebhookRules:
    usual: dict[str, Any] = {
        "allow": [HostRule.parse(each.host) for each in receivers],
        "secrets": (SECRET,),
        "timeout_seconds": 5.0,
        "first_backoff_seconds": 0.02,
    }
    return WebhookRules(**{**usual, **values})


async def echo(arguments: Mapping[str, Any], context: TaskContext) -> Any:
    return arguments.get("value")


async def until_delivered(store: Any, seconds: float = 5.0) -> None:
    """Until no delivery is pending."""
    async with asyncio.timeout(seconds):
        while await store.notes(PENDING):
            await asyncio.sleep(0.01)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "tasks.db")


async def test_every_kind_of_end_is_told_with_the_status_and_a_signature(lab: Lab) -> None:
    """Completed, failed, cancelled, and the deadline that the sweeper found."""
    started = asyncio.Event()

    @lab.operation("echo")
    async def echo_(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        return {"value": arguments["value"]}

    @lab.operation("break")
    async def break_(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        raise OperationFailed("no paper", details={"tray": 2})

    @lab.operation("wait")
    async def wait_(arguments: Mapping[str, Any], context: TaskContext) -> Any:
        started.set()
        await asyncio.Event().wait()

    async with receiving() as receiver, lab.service(webhooks=rules(receiver)) as service:

        async def submit(name: str, **values: Any) -> str:
            named: dict[str, Any] = {"max_wait_seconds": 60.0, **values}
            done = await service.registry.submit(
                name, {"value": "secret words"}, scope="ada", callback_url=receiver.url, **named
            )
            return done.task.task_ref

        refs = {"completed": await submit("echo"), "failed": await submit("break"), "cancelled": await submit("wait")}
        await asyncio.wait_for(started.wait(), 5)
        await service.registry.cancel(refs["cancelled"], scope="ada")
        late = await submit("wait", max_wait_seconds=0.2)
        await receiver.got(4)
        for kind, ref in refs.items():
            (message,) = receiver.of(ref)
            assert message["type"] == f"task.{kind}"
            assert message["data"]["status"] == kind
            assert message["data"]["terminal"] is True
        (message,) = receiver.of(refs["completed"])
        assert message["data"]["result"] == {"value": "secret words"}
        assert set(message) == {"type", "timestamp", "data"}
        assert "arguments" not in message["data"]
        (message,) = receiver.of(refs["failed"])
        assert message["data"]["error"]["details"] == {"tray": 2}
        assert "secret words" not in str(message)
        (message,) = receiver.of(late)
        assert message["data"]["error"]["details"]["limit"] == "deadline"
        assert sorted(receiver.ids) == sorted(f"msg_{ref}" for ref in (*refs.values(), late))


async def test_a_receiver_that_fails_is_asked_again_under_the_same_id_until_it_takes_it(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.operation("echo")(echo)
    answers = (answer(500), answer(302, location="http://127.0.0.1:1/"), answer(503, retry_after="0"), FINE)
    async with receiving(*answers) as receiver, lab.service(webhooks=rules(receiver)) as service:
        await service.registry.submit("echo", {}, scope="ada", callback_url=f"{receiver.url}?token=hunter2")
        await receiver.got(4)
        assert len(set(receiver.ids)) == 1
    assert "status 500" in caplog.text
    assert "hunter2" not in caplog.text
