"""Token buckets: who calls too often is refused on every surface, and told when to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from raincheck.config.settings import Settings
from raincheck.errors import RateLimited
from raincheck.limits.call_rate import CallRate
from raincheck.mcp.server.serve import make_server
from raincheck.operations.python.executor import python_operation


class _Clock:
    """A loop's clock that stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], _Clock]:
    return lambda: _Clock(monkeypatch)


def taken(buckets: CallRate, scope: str = "ada") -> bool:
    try:
        buckets.take(scope)
    except RateLimited:
        return False
    return True


async def test_a_bucket_holds_a_burst_and_fills_again(clock: Callable[[], _Clock]) -> None:
    time, buckets = clock(), CallRate(2.0, 3)
    assert [taken(buckets) for _ in range(4)] == [True, True, True, False]
    time.now += 0.5
    assert [taken(buckets) for _ in range(2)] == [True, False]
    time.now += 100
    assert [taken(buckets) for _ in range(4)] == [True, True, True, False]


async def test_refusals_cost_nothing_and_tell_when_there_is_room(clock: Callable[[], _Clock]) -> None:
    time, buckets = clock(), CallRate(4.0, 1)
    buckets.take("ada")
    assert not any(taken(buckets) for _ in range(50))
    with pytest.raises(RateLimited) as refused:
        buckets.take("ada")
    assert refused.value.details == {"retry_after_seconds": 0.25}
    assert refused.value.retryable
    time.now += 0.25
    buckets.take("ada")


async def test_each_scope_has_its_own_bucket_and_their_number_is_bounded(clock: Callable[[], _Clock]) -> None:
    clock()
    buckets = CallRate(1.0, 1)
    assert [taken(buckets, scope) for scope in ("ada", "bob", "ada")] == [True, True, False]
    for number in range(20_000):
        buckets.take(f"scope {number}")
    assert len(buckets._levels) <= 10_000  # pyright: ignore[reportPrivateUsage]


async def test_without_a_rate_nobody_is_refused() -> None:
    assert all(taken(CallRate(0, 1)) for _ in range(1000))


async def test_every_surface_refuses_who_calls_too_often(tmp_path: Path) -> None:
    async def quick() -> str:
        return "done"

    # Two calls, and what the client asks by itself: what the server is, and the listing that has the schema.
    polling = {"calls_per_second": 0.001, "call_burst": 4}
    settings = Settings.model_validate({"state": {"url": str(tmp_path / "tasks.db")}, "polling": polling})
    server, rc = make_server(settings, {"quick": python_operation(quick, operation_type="quick", description="Quick.")})
    async with rc.running(), Client(server) as client:
        for _ in range(2):
            assert not (await client.call_tool("quick", {})).is_error

        async def refused(name: str, arguments: dict[str, Any]) -> None:
            answer = await client.call_tool(name, arguments)
            error = answer.structured_content["error"]
            assert (answer.is_error, error["code"], error["retryable"]) == (True, "rate_limited", True)
            assert 0 < error["details"]["retry_after_seconds"] <= 1000

        await refused("quick", {})
        await refused("resolve_task_status", {"task_ref": "x"})
        await refused("list_background_tasks", {})
        with pytest.raises(MCPError) as caught:
            await client.list_resource_templates()
        assert caught.value.error.code == -32603
        assert caught.value.error.data["code"] == "rate_limited"
        assert caught.value.error.data["details"]["retry_after_seconds"] > 0
