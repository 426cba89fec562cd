"""How long a call waits for its result before it is answered with a handle: as long as that pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hints.histories import cancelled, ended, history_of

from raincheck.config.settings import Settings
from raincheck.mcp.server.serve import make_server
from raincheck.operations.operation import Policy
from raincheck.operations.python.executor import python_operation
from raincheck.polling import inline_wait
from raincheck.polling.history import History
from raincheck.polling.inline_wait import LONGEST_AUTO_WAIT, InlineWaits, inline_wait_of
from support.in_process import Peer, over_http
from support.waiting import PATIENCE

TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


def lasting(*seconds: float) -> History:
    return history_of([ended(each) for each in seconds])


# The rule.


@pytest.mark.parametrize("history", [None, lasting(), lasting(*[20.0] * 9)])
def test_without_a_history_the_wait_is_two_seconds(history: History | None) -> None:
    assert inline_wait_of(history) == 2.0


@pytest.mark.parametrize(
    ("seconds", "wait"),
    [
        ([0.2] * 20, 1.0),  # never so short that a slow network undoes it
        ([3.1] * 20, 3.5),
        ([4.4] * 20, 4.5),
        ([0.5] * 18 + [30.0] * 2, 1.0),  # a few stragglers get a handle
        ([4.0] * 12 + [60.0] * 8, 4.5),  # most end in time
        ([0.3] * 9 + [60.0] * 11, 0.0),  # most do not
        ([5.5] * 20, 0.0),
        ([60.0] * 20, 0.0),
    ],
)
def test_with_a_history_it_is_what_most_calls_take_and_nothing_where_that_is_too_long(
    seconds: Sequence[float], wait: float
) -> None:
    assert inline_wait_of(lasting(*seconds)) == wait
    assert wait <= LONGEST_AUTO_WAIT


def test_tasks_that_were_cancelled_count_as_longer_than_they_lasted() -> None:
    fast, slow = [ended(0.5)] * 10, [cancelled(2.0)] * 15
    assert inline_wait_of(history_of([*fast, *slow])) == 0.0


def test_a_number_is_taken_as_it_is_and_mode_task_never_waits() -> None:
    slow, fast = lasting(*[60.0] * 20), lasting(*[0.2] * 20)
    for history in (None, slow, fast):
        waits = InlineWaits(lambda _, history=history: history)
        assert waits.seconds("report", Policy(inline_wait_seconds=17)) == 17
        assert waits.seconds("report", Policy(inline_wait_seconds=0)) == 0
        assert waits.seconds("report", Policy(mode="task", inline_wait_seconds=17)) == 0
        assert waits.seconds("report", Policy(mode="task")) == 0


def test_the_wait_follows_the_history_of_its_own_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, History] = {}
    waits = InlineWaits(known.get)
    assert waits.seconds("report", Policy()) == 2.0
    known["report"] = lasting(*[60.0] * 20)
    assert (waits.seconds("report", Policy()), waits.seconds("other", Policy())) == (0.0, 2.0)
    counted: list[History | None] = []

    def counting(history: History | None) -> float:
        counted.append(history)
        return inline_wait_of(history)

    monkeypatch.setattr(inline_wait, "inline_wait_of", counting)
    for _ in range(100):
        assert waits.seconds("report", Policy()) == 0.0
    assert not counted  # worked out once for each state of the history
    known["report"] = lasting(*[60.0] * 20, *[0.2] * 200)
    assert waits.seconds("report", Policy()) == 1.0
    assert len(counted) == 1


# Calls over the wire.


@asynccontextmanager
async def served(
    tmp_path: Path, *, lasted: float | None = None, tasks: bool = False, **polling: Any
) -> AsyncGenerator[Peer]:
    """A client of operations that lasted so long, 20 times each, before."""

    async def work(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    policies = {"work": Policy(), "number": Policy(inline_wait_seconds=0.7), "always_task": Policy(mode="task")}
    operations = {
        name: python_operation(work, operation_type=name, description="Work.", policy=policy)
        for name, policy in policies.items()
    }
    state = {"url": str(tmp_path / "tasks.db")}
    settings = Settings.model_validate({"state": state, "execution": {"drain_seconds": 0}, "polling": polling})
    server, rc = make_server(settings, operations)
    async with over_http(server, rc) as channel:
        history = (await rc.started()).history
        for name in operations if lasted is not None else ():
            for _ in range(20):
                history.settled(ended(lasted or 0, operation_type=name))
        yield Peer(channel, modern=True, capabilities=TASKS if tasks else {})


async def timed(peer: Peer, tool: str, seconds: float) -> tuple[str, float]:
    """What a call that takes so long is answered with ("result", "ticket" or "task"), and after how long."""
    now = asyncio.get_running_loop().time
    began = now()
    result = (await peer.call(tool, {"seconds": seconds})).result
    took = now() - began
    if result["resultType"] == "task":
        return "task", took
    if "task_ref" in (result.get("structuredContent") or {}):
        return "ticket", took
    assert result["content"][0]["text"] == "done"
    return "result", took


@pytest.mark.parametrize("tasks", [False, True])
async def test_a_fast_call_is_answered_with_its_result_and_a_slow_one_with_the_clients_handle(
    tmp_path: Path, tasks: bool
) -> None:
    async with served(tmp_path, tasks=tasks) as peer:
        assert (await timed(peer, "work", 0.2))[0] == "result"
        kind, took = await timed(peer, "work", 60)
        assert kind == ("task" if tasks else "ticket")
        assert took >= 1.9
        assert (await timed(peer, "always_task", 0))[0] == kind


@pytest.mark.parametrize("tasks", [False, True])
async def test_where_calls_were_slow_the_handle_comes_at_once(tmp_path: Path, tasks: bool) -> None:
    async with served(tmp_path, lasted=60, tasks=tasks) as peer:
        kind, took = await timed(peer, "work", 60)
        assert (kind, took < 1.5) == ("task" if tasks else "ticket", True)


async def test_where_calls_took_longer_than_two_seconds_but_not_too_long_the_call_waits_for_them(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, lasted=3.3) as peer:
        kind, took = await timed(peer, "work", 2.5)
        assert (kind, took >= 2.4) == ("result", True)


async def test_a_number_is_waited_for_whatever_the_history_says(tmp_path: Path) -> None:
    async with served(tmp_path, lasted=60) as peer:
        assert (await timed(peer, "number", 0))[0] == "result"
        kind, took = await timed(peer, "number", 60)
        assert (kind, took >= 0.6) == ("ticket", True)


async def test_a_call_waits_no_longer_than_its_client_has_patience(tmp_path: Path) -> None:
    async with served(tmp_path, patience={"raw": 1}) as peer:
        kind, took = await timed(peer, "work", 60)
        assert kind == "ticket"
        assert 0.7 <= took < 1.9


async def test_a_call_waits_no_longer_than_its_client_was_seen_to_wait(tmp_path: Path) -> None:
    async with served(tmp_path) as peer:
        ref = (await peer.structured("always_task", seconds=60))["task_ref"]
        hasty = asyncio.create_task(peer.structured("resolve_task_status", task_ref=ref, wait_seconds=25))
        await asyncio.sleep(1.2)
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)

        async def hurried() -> bool:
            kind, took = await timed(peer, "work", 60)
            assert kind == "ticket"
            return took < 1.9

        # The server notices a hang-up soon, not at once.
        async with asyncio.timeout(PATIENCE):
            while not await hurried():
                pass
