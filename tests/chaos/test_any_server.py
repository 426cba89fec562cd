"""Two servers behind a round robin: either answers for any task, in the moment in which the other one knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chaos.fleet import Role
from chaos.ground import GROUNDS
from chaos.site import standing

from support.servers.server import needed
from support.serving import Refused, calling

ROLES: dict[str, Role] = {"one": "server", "two": "server"}
ROUNDS = 15


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


@pytest.mark.parametrize("name", GROUNDS)
async def test_a_task_cancelled_at_one_server_is_cancelled_at_the_other_and_stops(tmp_path: Path, name: str) -> None:
    needed(GROUNDS[name].missing())
    async with standing(GROUNDS[name], tmp_path, ROLES) as site:
        ports = [node.port for node in site.fleet.servers]
        async with calling(ports[0]) as first, calling(ports[1]) as second:
            ref = (await first.submit("fail", {"seconds": 60.0}))["task_ref"]
            while (await second.status(ref, 1.0))["status"] == "pending":
                pass
            cancelled = await second.call("cancel_background_task", {"task_ref": ref})
            assert cancelled["status"] == "cancelled"
            assert await first.status(ref) == cancelled
            history = site.history
            while (run := history().runs[ref][0]).how != "stopped":
                # `settled` by its own test; here it is the run that must hear of it.
                await first.run("retry", {"seconds": 0.05})
    assert run.ended is None
