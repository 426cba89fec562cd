"""Every public decorator and setting, as a user's program has them: mypy --strict and pyright must take it as it is."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, assert_type

from mcp.server.mcpserver import MCPServer

import raincheck
from raincheck import OperationFailed, Policy, Raincheck, TaskCancelled, TaskContext, load_settings
from raincheck.client import PollingPolicy, TaskHandle, TaskPoller, TaskResult, TaskView, connect, sync
from raincheck.operations.limit_policy import BreakerPolicy
from raincheck.operations.webhook import Webhook
from raincheck.stores.memory.store import MemoryStore

breaker = BreakerPolicy(
    failure_rate=0.5, window_seconds=60, min_calls=10, cool_down_seconds=30, probes=3, codes=("timeout",)
)
webhook = Webhook(
    url="https://example.com/hook", secrets=["${SECRET}"], events=["failed"], headers={"x-from": "office"}
)
policy = Policy(mode="auto", timeout_seconds=300, breaker=breaker)
rc = Raincheck(
    tools=["slow_*"],
    store=MemoryStore(),
    results=Path("results"),
    policy=policy,
    settings=load_settings(None, environ={}),
    webhooks={"timeout_seconds": 5},
)
two_lines = Raincheck(tools="slow_*")
mcp = MCPServer("office", extensions=[rc], lifespan=rc.lifespan)


@asynccontextmanager
async def own_lifespan(server: MCPServer[int]) -> AsyncGenerator[int]:
    yield 1


around = MCPServer("around", extensions=[two_lines], lifespan=two_lines.around(own_lifespan))


@rc.operation
def plain(topic: str) -> str:
    return topic


@rc.operation(
    name="everything",
    title="Everything",
    description="With every setting.",
    isolation="process",
    inherit=["DATABASE_URL"],
    ask_first={"sure": {"message": "Sure?", "requestedSchema": {"type": "object"}}},
    mode="task",
    inline_wait_seconds="auto",
    without_tasks="wait",
    timeout_seconds=300,
    default_max_wait_seconds=600,
    max_wait_ceiling_seconds=7200,
    ttl_seconds=3600,
    on_worker_lost="retry",
    dedupe="inflight",
    max_attempts=2,
    retry_attempts=1,
    max_result_bytes=1_000_000,
    max_inline_bytes=1000,
    priority=1,
    max_running=2,
    starts_per_minute=30,
    start_burst=3,
    breaker={"failure_rate": 0.5},
    secrets=("password",),
    webhook=webhook,
    answer_by="user",
    callers=("principal:*",),
    required_scopes=("pages:write",),
    caller_claims=("tenant",),
    caller_token=True,
    forward_headers=("x-region",),
)
def everything(pages: list[str], password: str) -> dict[str, int]:
    return {"pages": len(pages)}


@rc.operation(mode="task", breaker=breaker, inline_wait_seconds=1.5)
async def with_context(title: str, context: TaskContext) -> list[str]:
    assert_type(context.task_ref, str)
    assert_type(context.attempt, int)
    assert_type(context.cancelled, bool)
    await context.progress(0.5, "half")
    answer = await context.elicit("Go on?", {"type": "object", "properties": {}})
    async with context.idle():
        await asyncio.sleep(0)
    await context.save({"page": 1})
    if answer["action"] != "accept":
        raise OperationFailed("stopped", retryable=False, details={"title": title})
    return [title]


@rc.operation(mode="task")
def in_a_thread(start: int, context: TaskContext) -> str:
    try:
        context.check_cancelled()
    except TaskCancelled:
        raise
    context.progress_sync(1.0, "done")
    context.save_sync(start)
    return "done"


# What is decorated stays what it is.
assert_type(plain("rain"), str)
assert_type(everything(["a"], password="b"), dict[str, int])


async def used(context: TaskContext) -> None:
    assert_type(await with_context("a", context), list[str])
    async with connect("https://example.com/mcp", headers={}) as session:
        poller = TaskPoller(PollingPolicy(max_attempts=3))
        result = await poller.run(session, "plain", {"topic": "rain"})
        assert_type(result, TaskResult)


def used_without_asyncio() -> None:
    with sync.connect("https://example.com/mcp", headers={}) as client:
        assert_type(client.run("plain", {"topic": "rain"}, max_wait_seconds=3, on_progress=print), TaskResult)
        handle = client.submit("plain", idempotency_key="one")
        assert_type(handle, TaskHandle)
        assert_type(client.resume(handle, on_input=lambda request: None), TaskResult)
        assert_type(client.call_tool("plain", {"topic": "rain"}, on_submitted=print), TaskResult)
        assert_type(client.status(handle.task_ref, wait_seconds=1), TaskView)
        assert_type(client.answer(handle, {"sure": {"action": "accept"}}), TaskView)
        assert_type(client.cancel(handle), TaskView)


def errors() -> tuple[type[Exception], ...]:
    return raincheck.ConfigurationError, raincheck.MissingDependency, raincheck.RaincheckError, raincheck.TaskFailure


def records(task: raincheck.Task) -> tuple[raincheck.TaskStatus, Any]:
    return task.status, task.arguments
