"""Held answers: asked for again at once; answers that were not held, after the interval that the server gave.

The server is a scripted one, since a real one holds until the task ends.
"""

from __future__ import annotations

import asyncio
from typing import Any

from raincheck.client import PollingPolicy, TaskPoller
from support.waiting import PATIENCE


class Scripted:
    """Says that the task is processing, then that it is completed.

    Args:
        hold: Whether it holds its first answer.
        poll_after_seconds: Its hint; None: it gives none.
        longest_hold: For how long it holds an answer, whatever it was asked.
    """

    def __init__(self, *, hold: bool, poll_after_seconds: float | None, longest_hold: float = 60.0) -> None:
        self._hold = hold
        self._longest_hold = longest_hold
        self._hint = poll_after_seconds
        self.times: list[float] = []
        self.asked: list[Any] = []

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        assert name == "resolve_task_status"
        self.times.append(asyncio.get_running_loop().time())
        self.asked.append(arguments.get("wait_seconds"))
        if self._hold and len(self.times) == 1:
            await asyncio.sleep(min(arguments["wait_seconds"], self._longest_hold))
        status = {"task_ref": arguments["task_ref"], "poll_after_seconds": self._hint, "progress": {"fraction": 0.5}}
        status |= {"status": "processing"} if len(self.times) == 1 else {"status": "completed", "result": "done"}
        return {"content": [], "structuredContent": status}


async def test_after_an_answer_that_was_held_the_next_question_comes_at_once() -> None:
    server = Scripted(hold=True, poll_after_seconds=60)
    async with asyncio.timeout(PATIENCE):
        result = await TaskPoller(PollingPolicy(hold_seconds=0.1)).resume(server, "ref")
    assert result.value == "done"


async def test_an_answer_that_was_held_for_less_than_asked_was_held_all_the_same() -> None:
    server = Scripted(hold=True, poll_after_seconds=60, longest_hold=1)
    async with asyncio.timeout(PATIENCE):
        assert (await TaskPoller().resume(server, "ref")).value == "done"
    assert server.asked == [20, 20]


async def test_where_progress_is_watched_answers_are_held_for_two_seconds_at_most() -> None:
    watching = TaskPoller(PollingPolicy(jitter=0), on_progress=lambda _: None)
    patient = Scripted(hold=True, poll_after_seconds=30)
    await watching.resume(patient, "ref")
    hasty = Scripted(hold=False, poll_after_seconds=0.1)
    await watching.resume(hasty, "ref")
    assert (patient.asked, hasty.asked) == ([1, 2], [1, 0.1])


async def test_after_an_answer_that_was_not_held_the_servers_interval_is_kept() -> None:
    server = Scripted(hold=False, poll_after_seconds=0.3)
    assert (await TaskPoller().resume(server, "ref")).value == "done"
    first, second = server.times
    assert second - first >= 0.3


async def test_who_wants_no_answer_held_says_so_to_a_server_that_holds_by_itself() -> None:
    server = Scripted(hold=False, poll_after_seconds=0.01)
    await TaskPoller(PollingPolicy(hold_seconds=0)).resume(server, "ref")
    assert server.asked == [0, 0]
