"""The scenario of the demo, with every promise in it checked."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

from raincheck.client import ReconnectingSession, TaskHandle, TaskPoller, TaskView, connect
from raincheck.demo.processes import Child, DemoFailed, child, demand
from raincheck.demo.timeline import Mark, Timeline
from raincheck.domain.task import TaskError, TaskStatus
from raincheck.errors import CallError, RaincheckError

_POLL_SECONDS = 0.2
_NEWS_SECONDS = 2.0
_REPORT_KEY = "report on rain, 2026"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """How the demo is run; tests break it here.

    Attributes:
        report_seconds: How long the slow API takes.
        hurry_seconds: The deadline of the task that has one too short.
        patience_seconds: How long to wait for anything before it counts as broken.
        server_environment: Variables for the server, which override its file.
    """

    report_seconds: float = 12.0
    hurry_seconds: float = 2.5
    patience_seconds: float = 45.0
    server_environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(kw_only=True)
class _Job:
    """One task of the scenario, as the agent knows it."""

    row: str
    operation: str
    parameters: Mapping[str, Any]
    what: str
    key: str | None = None
    max_wait_seconds: float | None = None
    handle: TaskHandle = field(default_factory=lambda: TaskHandle(task_ref=""))
    view: TaskView | None = None
    updated_before_the_kill: str | None = None

    @property
    def status(self) -> TaskStatus:
        return TaskStatus.PENDING if self.view is None else self.view.status

    @property
    def ended(self) -> bool:
        return self.view is not None and self.view.terminal

    @property
    def error(self) -> TaskError | None:
        return None if self.view is None else self.view.error

    @property
    def result(self) -> Any:
        return None if self.view is None else self.view.result

    @property
    def news(self) -> str:
        progress = None if self.view is None else self.view.progress
        percent = f" {progress.fraction:.0%}" if progress is not None and progress.fraction else ""
        return f"{self.row} {self.status}{percent}"


async def tell(show: Timeline, folder: Path, settings: DemoSettings) -> None:
    """Play the whole scenario in `folder`; every process that it starts is gone when it returns or raises.

    Raises:
        DemoFailed: A promise did not hold; the message says which.
    """
    async with AsyncExitStack() as stack:
        scenario = _Scenario(show, folder, settings)
        await scenario.open_api(stack)
        await scenario.before_the_kill(stack)
        await scenario.after_the_kill(stack)
        scenario.check()
    show.line()
    show.draw()


class _Scenario:
    def __init__(self, show: Timeline, folder: Path, settings: DemoSettings) -> None:
        self._show = show
        self._folder = folder
        self._settings = settings
        self._api_url = ""
        self._server: Child | None = None
        self._slowest_ticket = 0.0
        self._poller = TaskPoller()
        self._report = _Job(
            row="report",
            operation="report",
            parameters={"topic": "rain"},
            what=f"an HTTP API, {settings.report_seconds:g} s",
            key=_REPORT_KEY,
        )
        self._video = _Job(row="video", operation="video", parameters={"name": "rain"}, what="a command, 9 s")
        self._summary = _Job(
            row="summary",
            operation="summary",
            parameters={"text": "a slow tool gets a rain check"},
            what="a Python function, 8 s",
        )
        self._payment = _Job(
            row="payment",
            operation="payment",
            parameters={"amount": 20},
            what="a Python function that must not run twice",
        )
        self._hurried = _Job(
            row="hurried",
            operation="report",
            parameters={"topic": "haste"},
            what=f"the HTTP API again, but within {settings.hurry_seconds:g} s",
            max_wait_seconds=settings.hurry_seconds,
        )
        self._jobs = (self._report, self._video, self._summary, self._payment, self._hurried)

    # The acts.

    async def open_api(self, stack: AsyncExitStack) -> None:
        _furnish(self._folder)
        seconds = self._settings.report_seconds
        api = await stack.enter_async_context(
            child(
                "the slow HTTP API",
                [sys.executable, "-m", "raincheck.demo.slow_api", "--seconds", str(seconds)],
                folder=self._folder,
                environment=_environment(),
            )
        )
        self._api_url = api.url
        self._show.say("api", f"a slow HTTP API is up: it takes {seconds:g} s for a report (process {api.pid})")

    async def before_the_kill(self, stack: AsyncExitStack) -> None:
        show = self._show
        self._server = await stack.enter_async_context(self._serving(port=0))
        async with self._connected() as agent:
            show.say("agent", "connected, as any MCP client does")
            show.line()
            for job in self._jobs:
                await self._submit(agent, job)
            show.say(
                "agent", f"five tickets, the slowest in {self._slowest_ticket:.0f} ms; the work goes on without me"
            )
            show.line()
            await self._same_key_again(agent)
            await self._until(agent, "the deadline to pass", lambda: self._hurried.ended)
            self._tell_end(self._hurried)
            await self._until(agent, "all work to be under way", self._all_at_work)
        await self._kill()

    async def after_the_kill(self, stack: AsyncExitStack) -> None:
        show, dead = self._show, self._server
        assert dead is not None
        port = int(dead.url.rpartition(":")[2].partition("/")[0])
        self._server = await stack.enter_async_context(self._serving(port=port))
        async with self._connected() as agent:
            await self._look(agent)
            show.say("agent", "every ticket still resolves: " + ", ".join(each.news for each in self._jobs))
            await self._same_key_again(agent)
            show.say("server", "waits out the dead worker's leases (2 s), then settles or runs again what it held")
            told: set[str] = {self._hurried.row}

            def all_done() -> bool:
                for job in self._jobs:
                    if job.ended and job.row not in told:
                        told.add(job.row)
                        self._tell_end(job)
                return all(job.ended for job in self._jobs)

            await self._until(agent, "all tasks to end", all_done, news=True)

    def check(self) -> None:
        show, log = self._show, self._server.log if self._server else ()
        show.line()
        try:
            for promise in (self._results_arrived(), self._not_repeated(), self._one_task(), self._deadline_held()):
                show.line(f"  ok   {promise}", tone="good")
        except DemoFailed as failed:
            raise DemoFailed(str(failed), log=log) from None

    def _all_at_work(self) -> bool:
        at_work = (self._report, self._video, self._summary, self._payment)
        for job in at_work:
            if job.ended:
                raise self._failed(f"{job.row} ended before the kill: {job.error and job.error.code}")
        return all(job.status is TaskStatus.PROCESSING for job in at_work)

    # What they are made of.

    @asynccontextmanager
    async def _serving(self, port: int) -> AsyncGenerator[Child]:
        first = self._server is None
        command = [sys.executable, "-m", "raincheck", "serve", "raincheck.toml", "--port", str(port)]
        environment = _environment() | {"DEMO_API_URL": self._api_url} | dict(self._settings.server_environment)
        began = time.monotonic()
        async with child("raincheck serve", command, folder=self._folder, environment=environment) as server:
            took = time.monotonic() - began
            again = "" if first else " again"
            self._show.say(
                "server",
                f"raincheck serve is up{again} after {took:.1f} s: {server.url} (process {server.pid})",
                tone="loud",
            )
            self._show.mark("server", "=")
            try:
                yield server
            finally:
                self._show.mark("server", " ")

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[ReconnectingSession]:
        assert self._server is not None
        try:
            async with connect(self._server.url) as agent:
                yield agent
        except (RaincheckError, OSError, ExceptionGroup) as error:
            cause = _leaf(error)
            raise cause if isinstance(cause, DemoFailed) else self._failed(f"a call failed: {cause!r}") from error

    async def _submit(self, agent: ReconnectingSession, job: _Job) -> None:
        began = time.monotonic()
        job.handle = await self._poller.submit(
            agent,
            job.operation,
            job.parameters,
            max_wait_seconds=job.max_wait_seconds,
            idempotency_key=job.key,
        )
        took = (time.monotonic() - began) * 1000
        self._slowest_ticket = max(self._slowest_ticket, took)
        self._show.mark(job.row, ".")
        ticket = f"ticket {job.handle.task_ref[:8]}.. in {took:.0f} ms"
        self._show.say("agent", f"{job.row:<8} {ticket:<28} ({job.what})")

    async def _same_key_again(self, agent: ReconnectingSession) -> None:
        report = self._report
        again = await self._poller.submit(agent, report.operation, report.parameters, idempotency_key=_REPORT_KEY)
        if again.task_ref != report.handle.task_ref:
            raise self._failed("the same idempotency_key made a second task")
        self._show.say(
            "agent", "asks for the report again with the same idempotency_key: the same ticket, no second task"
        )

    async def _kill(self) -> None:
        assert self._server is not None
        self._show.line()
        for job in self._jobs:
            if job.view is not None and not job.ended:
                job.updated_before_the_kill = job.view.updated_at
                self._show.mark(job.row, " ")
        self._show.mark("server", " ")
        self._show.sign("server", "X")
        await self._server.kill()
        self._show.say(
            "demo", f"kill -9 {self._server.pid}: the server is dead in mid-work, nothing was saved by hand", tone="bad"
        )
        self._show.line()

    async def _look(self, agent: ReconnectingSession) -> None:
        for job in self._jobs:
            if job.ended:
                continue
            try:
                job.view = await self._poller.status(agent, job.handle)
            except CallError as refused:
                told = f"{refused.code}: {refused.message}"
                raise self._failed(f"the ticket of {job.row} does not resolve any more: {told}") from refused
            self._draw(job)

    def _draw(self, job: _Job) -> None:
        marks: dict[str, Mark] = {"pending": ".", "processing": "="}
        # The record of a dead worker's task still says processing; no worker has it.
        updated_at = None if job.view is None else job.view.updated_at
        orphaned = updated_at is not None and updated_at == job.updated_before_the_kill
        self._show.mark(job.row, "." if orphaned else marks.get(job.status, " "))
        if job.ended:
            self._show.sign(job.row, "v" if job.status is TaskStatus.COMPLETED else "!")

    async def _until(self, agent: ReconnectingSession, what: str, reached: Any, *, news: bool = False) -> None:
        give_up = time.monotonic() + self._settings.patience_seconds
        next_news = time.monotonic() + _NEWS_SECONDS
        while True:
            await self._look(agent)
            if reached():
                return
            if time.monotonic() >= give_up:
                waiting = ", ".join(each.news for each in self._jobs if not each.ended)
                raise self._failed(f"waited {self._settings.patience_seconds:g} s for {what}: {waiting}")
            if news and time.monotonic() >= next_news:
                next_news += _NEWS_SECONDS
                open_ones = [each.news for each in self._jobs if not each.ended]
                self._show.say("agent", "asks: " + ", ".join(open_ones), tone="quiet")
            await asyncio.sleep(_POLL_SECONDS)

    def _tell_end(self, job: _Job) -> None:
        error, completed = job.error, job.status is TaskStatus.COMPLETED
        what = f"{error.code}: {error.message}" if error else json.dumps(job.result)
        self._show.say("agent", f"{job.row} {job.status}: {what}", tone="good" if completed else "loud")

    def _failed(self, message: str) -> DemoFailed:
        return DemoFailed(message, log=self._server.log if self._server else ())

    # The promises.

    def _results_arrived(self) -> str:
        for job in (self._report, self._video, self._summary):
            demand(job.status is TaskStatus.COMPLETED, f"{job.row} ended {job.status}: {job.error}")
        demand(self._report.result["topic"] == "rain", "the report is not the one that was ordered")
        demand(self._video.result["frames"] == 216, "the video is not what the command printed")
        demand(self._summary.result["started"] == 2, "the summary was not run again after the kill")
        return 'the results of all three operations with on_worker_lost = "retry" arrived, in spite of the kill'

    def _not_repeated(self) -> str:
        demand(
            self._payment.error is not None and self._payment.error.code == "worker_lost",
            f"the payment did not end in worker_lost: {self._payment.view}",
        )
        charged = (self._folder / "ledger.txt").read_text().splitlines()
        demand(len(charged) == 1, f"the payment was started {len(charged)} times")
        return 'the payment (on_worker_lost = "fail") was started once and ended in a structured error: worker_lost'

    def _one_task(self) -> str:
        with urllib.request.urlopen(f"{self._api_url}/counts", timeout=5) as answer:  # noqa: S310  our own loopback URL
            counts = json.load(answer)
        asked, built = counts["requests"].get("rain"), counts["built"].get("rain")
        demand(asked == 2 and built == 1, f"the API was asked {asked} times and built {built} reports; not 2 and 1")
        return (
            "three calls with one idempotency_key: one task; the API counted 2 requests (before and after the kill) "
            "with one Idempotency-Key, and built 1 report"
        )

    def _deadline_held(self) -> str:
        error = self._hurried.error
        details = {} if error is None else dict(error.details)
        as_promised = (error and error.code, details.get("limit"), details.get("phase")) == (
            "timeout",
            "deadline",
            "processing",
        )
        demand(as_promised, f"the deadline did not end the task: {self._hurried.view}")
        return f"the deadline ended in a structured error: timeout {json.dumps(details)}"


def _leaf(error: Exception) -> Exception:
    """The error itself, out of the groups that the client's tasks wrap it in."""
    if not isinstance(error, ExceptionGroup):
        return error
    return _leaf(cast("ExceptionGroup[Exception]", error).exceptions[0])


def _furnish(folder: Path) -> None:
    """Put the demo's configuration and code into the folder; the command runs with this Python."""
    for source in resources.files("raincheck.demo").joinpath("project").iterdir():
        if source.name.endswith((".py", ".toml")):
            text = source.read_text(encoding="utf-8").replace('"python", ', f"{json.dumps(sys.executable)}, ")
            (folder / source.name).write_text(text, encoding="utf-8")


def _environment() -> dict[str, str]:
    """Ours, without settings of raincheck that would lead the demo to real tasks."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAINCHECK_")}
