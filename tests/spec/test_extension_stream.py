"""`notifications/tasks` on `subscriptions/listen`: for tasks of this process and of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from spec.channels import hosted, http, http_process
from spec.peers import Modern, answer

from support.waiting import PATIENCE

Release = Callable[[str], None]


@pytest.mark.requirement("A19")
async def test_a_stream_acknowledges_the_ids_it_honours_and_gives_each_task_whole(
    modern: Modern, release: Release
) -> None:
    task_id = await modern.start("steps", {"name": "go"})
    async with modern.listening(task_id, "never-heard-of", toolsListChanged=True) as stream:
        assert stream.acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert stream.acknowledged["params"]["notifications"] == {"taskIds": [task_id]}
        first = await stream.next()
        assert first["params"]["status"] == "working"
        release("go")
        done = await stream.reaches(task_id, "completed")
        ended = await asyncio.wait_for(stream.ended, PATIENCE)
    assert ended.message["result"]["resultType"] == "complete"
    got = await modern.get(task_id)
    assert {key: value for key, value in done.items() if key != "_meta"} == {
        key: value for key, value in got.items() if key not in ("_meta", "resultType")
    }


@pytest.mark.requirement("A19")
async def test_questions_and_their_answers_are_told_and_progress_is_only_the_tasks_own(modern: Modern) -> None:
    task_id = await modern.start("ask_two")
    async with modern.listening(task_id) as stream:
        task = await stream.reaches(task_id, "input_required")
        while len(task["inputRequests"]) < 2:
            task = await stream.reaches(task_id, "input_required")
    await modern.update(task_id, {key: answer("Ada") for key in task["inputRequests"]})
    async with modern.listening(task_id) as stream:
        assert (await stream.reaches(task_id, "completed"))["result"]["structuredContent"]


@pytest.mark.requirement("A19")
async def test_one_stream_serves_many_tasks_and_a_settled_one_is_told_at_once(modern: Modern, release: Release) -> None:
    settled = await modern.start("soon")
    await modern.reaches(settled)
    others = [await modern.start("hold", {"name": "go"}) for _ in range(5)]
    async with modern.listening(settled, *others) as stream:
        seen: set[str] = set()
        while settled not in seen:
            params = (await stream.next())["params"]
            if params["status"] == "completed":
                seen.add(params["taskId"])
        assert seen == {settled}
        release("go")
        while seen != {settled, *others}:
            params = (await stream.next())["params"]
            if params["status"] == "completed":
                seen.add(params["taskId"])
        await asyncio.wait_for(stream.ended, PATIENCE)


@pytest.mark.requirement("A19")
async def test_a_task_that_another_process_runs_is_told_too(store: Path, release: Release) -> None:
    async with (
        http_process(store) as elsewhere,
        hosted(store, workers=0) as here,
        http(elsewhere) as theirs,
        http(here) as mine,
    ):
        task_id = await Modern(mine).start("steps", {"name": "go"})
        async with Modern(mine).listening(task_id) as stream:
            started = await stream.next()
            while "statusMessage" not in started["params"]:
                started = await stream.next()
            assert started["params"]["statusMessage"] == "25%: begun"
            release("go")
            assert (await stream.reaches(task_id, "completed"))["result"]["content"][0]["text"] == "stepped"
        cancelled = await Modern(mine).start("hold", {"name": "never"})
        async with Modern(mine).listening(cancelled) as stream:
            await Modern(theirs).cancel(cancelled)
            await stream.reaches(cancelled, "cancelled")
