"""What operations of every kind hand on as the idempotency key: never the caller's own text."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from operations.http_server import answer, answering, serving
from upstream.upstream_api import job_api

from raincheck.errors import OperationFailed
from raincheck.operations.command.executor import command_operation
from raincheck.operations.context import TaskContext
from raincheck.operations.http.executor import http_operation
from raincheck.operations.http.job_api import PollSettings
from raincheck.operations.operation import Operation, Policy
from raincheck.operations.python.executor import python_operation
from raincheck.runtime.service import Service
from support.lab import Lab
from support.tell_key import tell_key
from support.waiting import PATIENCE

NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}
SHOW = "import os; print(os.environ['RAINCHECK_IDEMPOTENCY_KEY'])"
TASK = Policy(mode="task")


async def handed_on(service: Service, operation_type: str, scope: str, key: str | None) -> tuple[str, str]:
    """What the operation, which answers with what it was handed, was handed; and its task."""
    task = (await service.registry.submit(operation_type, {}, scope=scope, idempotency_key=key)).task
    task = await service.registry.wait(task.task_ref, scope=scope, seconds=PATIENCE)
    assert task.outcome is not None
    assert task.outcome.error is None, task.outcome.error
    return str(task.outcome.value), task.task_ref


def tell(context: TaskContext) -> str:
    return context.idempotency_key


async def tell_async(context: TaskContext) -> str:
    return context.idempotency_key


KINDS: dict[str, Operation] = {
    "command": command_operation(
        "command", argv=[sys.executable, "-c", SHOW], parameters=NOTHING, description="", policy=TASK
    ),
    "thread": python_operation(tell, operation_type="thread", policy=TASK),
    "async": python_operation(tell_async, operation_type="async", policy=TASK),
    "process": python_operation(tell_key, operation_type="process", policy=TASK, isolation="process"),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_one_scopes_key_is_not_anothers_in_any_kind(kind: str, lab: Lab) -> None:
    lab.operations[kind] = KINDS[kind]
    async with lab.service() as service, asyncio.timeout(60):
        adas, _ = await handed_on(service, kind, "ada", "receipt-7")
        bobs, _ = await handed_on(service, kind, "bob", "receipt-7")
        without, task_ref = await handed_on(service, kind, "ada", None)
    assert "receipt-7" not in adas + bobs
    assert adas != bobs
    assert without == task_ref


async def test_an_api_never_sees_a_callers_key(lab: Lab) -> None:
    async with serving(answering(answer(body={}))) as server, job_api() as api, asyncio.timeout(60):
        lab.operations["post"] = http_operation(
            "post", method="POST", url=f"{server.url}/charge", parameters=NOTHING, description="", policy=TASK
        )
        lab.operations["job"] = http_operation(
            "job",
            method="POST",
            url=f"{api.url}/jobs",
            parameters=NOTHING,
            description="",
            policy=TASK,
            poll=PollSettings(
                status_url="{$.links.self}", state="$.state", done=("done",), failed=("broken",), interval_seconds=0.05
            ),
        )
        async with lab.service() as service:
            for scope in ("ada", "bob"):
                await handed_on(service, "post", scope, "receipt-7")
                await handed_on(service, "job", scope, "receipt-8")
            _, task_ref = await handed_on(service, "post", "ada", None)
    received = [*server.received, *api.received]
    assert "receipt-" not in repr(received)
    charged = [each.headers["idempotency-key"] for each in server.received]
    assert len(set(charged)) == 3
    assert charged[2] == task_ref
    assert len({key for key in api.submits if key is not None}) == 2


async def test_it_is_the_same_for_every_attempt(lab: Lab) -> None:
    seen: list[str] = []

    @lab.operation("again", retry_attempts=1)
    async def again(arguments: Mapping[str, Any], context: TaskContext) -> str:
        seen.append(context.idempotency_key)
        if len(seen) == 1:
            raise OperationFailed("not yet")
        return context.idempotency_key

    async with lab.service() as service, asyncio.timeout(PATIENCE):
        told = (await handed_on(service, "again", "ada", "receipt-7"))[0]
    assert seen == [told, told]
    assert "receipt-7" not in told
