"""The threads of synchronous operations: on demand, reused, retired, and left behind when they do not listen."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from operations.running import Recorder, context_for, soon, start, until

from raincheck.operations.context import TaskContext
from raincheck.operations.python import threads
from raincheck.operations.python.executor import python_operation
from raincheck.operations.python.threads import THREADS, ThreadPool
from support.waiting import PATIENCE


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(idle_seconds=0.05, warn_after_seconds=0.01)
    yield pool
    deadline = time.monotonic() + 5
    while (pool.busy() or pool.idle()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (pool.busy(), pool.abandoned(), pool.idle()) == (0, 0, 0)


async def test_threads_grow_with_demand_and_all_run_at_once(pool: ThreadPool) -> None:
    together = threading.Barrier(60)

    def meet() -> str:
        together.wait(5)
        return threading.current_thread().name

    names = await soon(asyncio.gather(*(pool.run(meet, name="meet") for _ in range(60))))

    assert names == ["raincheck-meet"] * 60


async def test_an_idle_thread_is_used_again() -> None:
    pool = ThreadPool(idle_seconds=5)
    first = await pool.run(threading.get_ident, name="first")
    assert await pool.run(threading.get_ident, name="second") == first
    assert (pool.idle(), pool.busy()) == (1, 0)


async def test_no_call_is_lost_between_threads_that_retire_and_calls_that_arrive() -> None:
    pool = ThreadPool(idle_seconds=0.001)
    for _ in range(300):
        assert await soon(pool.run(lambda: 1, name="quick")) == 1
        await asyncio.sleep(0.001)  # as long as the idle time: the race is the subject


async def test_a_call_that_is_given_up_before_its_thread_begins_does_not_begin(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    given_up, start = threading.Event(), threading.Thread.start

    def late(thread: threading.Thread) -> None:
        given_up.wait(5)
        start(thread)

    def start_late(worker: Any) -> None:
        start(threading.Thread(target=late, args=(worker._thread,)))

    monkeypatch.setattr(threads, "_Worker", type("Late", (getattr(threads, "_Worker"),), {"start": start_late}))  # noqa: B009
    call = asyncio.create_task(pool.run(lambda: begun.append(True), name="late"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(call)
    given_up.set()
    await until(lambda: pool.busy() == 0)
    assert begun == []


async def test_cancelling_goes_through_at_once_and_the_thread_counts_as_abandoned_until_it_ends(
    pool: ThreadPool, caplog: pytest.LogCaptureFixture
) -> None:
    started, finish = threading.Event(), threading.Event()

    def deaf() -> None:
        started.set()
        finish.wait(5)

    task = asyncio.create_task(pool.run(deaf, name="deaf"))
    await until(started.is_set)
    with caplog.at_level(logging.WARNING, "raincheck"):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert (pool.busy(), pool.abandoned()) == (1, 1)
        await until(lambda: caplog.messages)
    assert "operation 'deaf' was told to stop" in caplog.messages[0]
    finish.set()
    await until(lambda: pool.busy() == 0)
    assert pool.abandoned() == 0


async def test_a_thread_that_listens_ends_quietly_when_its_operation_is_cancelled() -> None:
    ended = threading.Event()

    def loop(context: TaskContext) -> None:
        context.progress_sync(0.1)
        try:
            while True:
                context.check_cancelled()
                time.sleep(0.001)
        finally:
            ended.set()

    backend = Recorder()
    operation = python_operation(loop)
    task = start(operation, context_for(operation, backend))
    await soon(backend.reported.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    await until(ended.is_set)
    await until(lambda: THREADS.busy() == 0)


async def test_a_thread_that_waits_for_an_answer_is_woken_by_cancellation() -> None:
    ended = threading.Event()

    def ask(context: TaskContext) -> None:
        try:
            context.elicit_sync("Which one?", {"type": "object"})
        finally:
            ended.set()

    backend = Recorder()
    operation = python_operation(ask)
    task = start(operation, context_for(operation, backend))
    await soon(backend.was_asked.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    await until(ended.is_set)
    await until(lambda: THREADS.busy() == 0)


def test_a_hung_thread_does_not_keep_the_interpreter_from_exiting() -> None:
    program = """
        import asyncio, threading
        from raincheck.operations.python.threads import THREADS

        async def main():
            task = asyncio.create_task(THREADS.run(threading.Event().wait, name="hung"))
            while not THREADS.busy():
                await asyncio.sleep(0)
            task.cancel()

        asyncio.run(main())
        print("done")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (ended.stdout, ended.returncode) == ("done\n", 0)
