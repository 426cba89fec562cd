"""Two servers behind a round robin: either answers for any task, in the moment in which the other one knows it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from chaos.fleet import Role
from chaos.ground import GROUNDS
from chaos.site import Site, standing

from support.history import Run, figures
from support.servers.server import needed
from support.serving import Refused, calling

ROLES: dict[str, Role] = {"one": "server", "two": "server"}
ROUNDS = 15


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", GROUNDS)
async def test_any_server_answers_for_any_task_the_same_tick(tmp_path: Path, name: str) -> None:
    needed(GROUNDS[name].missing())
    ended: list[dict[str, Any]] = []
    async with standing(GROUNDS[name], tmp_path, ROLES) as site:
        ports = [node.port for node in site.fleet.servers]
        async with calling(ports[0]) as first, calling(ports[1]) as second:
            for number in range(ROUNDS):
                here, there = (first, second) if number % 2 else (second, first)
                key = {"idempotency_key": f"piece {number}"}
                ref = (await here.submit("retry", {"seconds": 0.1}, **key))["task_ref"]
                assert (await there.status(ref))["task_ref"] == ref
                again = await there.submit("retry", {"seconds": 0.1}, **key)
                assert (again["task_ref"], again["deduplicated"]) == (ref, True)
                with pytest.raises(Refused) as conflict:
                    await there.submit("retry", {"seconds": 0.2}, **key)
                assert conflict.value.code == "idempotency_conflict"
                # A held call at one is woken by what the other one ran.
                seen = await here.settled(ref)
                assert await there.status(ref) == seen
                ended.append(seen)
    assert [seen["status"] for seen in ended] == ["completed"] * ROUNDS
    assert len({seen["task_ref"] for seen in ended}) == ROUNDS


async def until_it(site: Site, ref: str, events: tuple[str, ...]) -> Run:
    """The task's run, once one of these is the last that it did."""
    async with asyncio.timeout(10):
        while not (runs := site.history().runs.get(ref)) or runs[0].how not in events:
            await asyncio.sleep(0.02)
    return runs[0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", GROUNDS)
async def test_a_task_cancelled_at_one_server_is_cancelled_at_the_other_and_stops(tmp_path: Path, name: str) -> None:
    needed(GROUNDS[name].missing())
    async with standing(GROUNDS[name], tmp_path, ROLES) as site:
        ports = [node.port for node in site.fleet.servers]
        async with calling(ports[0]) as first, calling(ports[1]) as second:
            ref = (await first.submit("fail", {"seconds": 60.0}))["task_ref"]
            await until_it(site, ref, ("start", "tick"))
            cancelled = await second.call("cancel_background_task", {"task_ref": ref, "detail": "full"})
            assert cancelled["status"] == "cancelled"
            assert await first.status(ref) == cancelled
            asked = time.monotonic()
            run = await until_it(site, ref, ("stopped",))
    figures(f"{name}: cancelled at the other server", {"the run was last alive after, s": run.last - asked})
    assert run.ended is None
