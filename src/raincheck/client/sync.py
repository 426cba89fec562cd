"""The driver for scripts without asyncio: `with connect("raincheck serve") as rc: rc.run("report", {...})`.

Connections live on an event loop in a thread of their own, so this works inside a running loop too (notebooks).
Callbacks are called in the thread that waits: they may block and ask a person. The methods are those of `TaskPoller`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from raincheck.client.models import (
    InputCallback,
    ProgressCallback,
    SubmittedCallback,
    TaskHandle,
    TaskResult,
    handle_of,
)
from raincheck.client.policy import PollingPolicy
from raincheck.client.poller import TaskPoller
from raincheck.client.reconnecting import ReconnectingSession
from raincheck.client.transports import Server, connector
from raincheck.client.wait import settled

__all__ = ["SyncClient", "connect"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# On Windows a wait without a limit does not notice Ctrl-C.
_GLANCE_SECONDS = 0.5


def connect(
    server: Server,
    *,
    policy: PollingPolicy | None = None,
    headers: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    outage_seconds: float = 60.0,
    whole_results: bool = True,
) -> SyncClient:
    """A client of the server, to be used in a `with` block.

    Arguments and errors as of `raincheck.client.connect`; `policy` and `whole_results` as of `TaskPoller`.
    """
    opener = connector(server, headers=headers, env=env, cwd=cwd)
    poller = TaskPoller(policy, whole_results=whole_results)
    return SyncClient(lambda: ReconnectingSession(opener, outage_seconds=outage_seconds), poller)


def _blocking(
    method: Callable[Concatenate[TaskPoller, ReconnectingSession, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[SyncClient, _P], _T]:
    """The method for a thread that waits, over the client's own session; callbacks are called in that thread."""
    signature = inspect.signature(method)
    poller, _, *others = signature.parameters.values()

    @functools.wraps(method)
    def call(client: SyncClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return client._call(method, *args, **kwargs)  # pyright: ignore[reportPrivateUsage]

    call.__signature__ = signature.replace(parameters=[poller, *others])  # pyright: ignore[reportAttributeAccessIssue]
    return call


async def _call_tool(
    poller: TaskPoller,
    session: ReconnectingSession,
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    on_progress: ProgressCallback | None = None,
    on_input: InputCallback | None = None,
    on_submitted: SubmittedCallback | None = None,
) -> TaskResult:
    """Call a typed tool; its result, waited for where the call becomes a task. A call is never repeated."""
    result = await session.call_tool(name, dict(arguments or {}))
    return await poller.resolve_if_ticket(
        session, result, on_progress=on_progress, on_input=on_input, on_submitted=on_submitted
    )


class SyncClient:
    """Runs operations of one server; made by `connect`. Usable from several threads at once.

    `KeyboardInterrupt`, like any other end of a wait, leaves the task running: its note names the task.
    """

    def __init__(self, open_session: Callable[[], ReconnectingSession], poller: TaskPoller) -> None:
        self._open_session = open_session
        self._poller = poller
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: ReconnectingSession | None = None

    def __enter__(self) -> Self:
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = runner.get_loop()
        self._thread = threading.Thread(target=_run, args=(runner,), name="raincheck-client", daemon=True)
        self._thread.start()
        try:
            self._session = self._wait(self._open())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._session is not None:
                self._wait(self._session.__aexit__(None, None, None))
        finally:
            self._stop()

    run = _blocking(TaskPoller.run)
    submit = _blocking(TaskPoller.submit)
    resume = _blocking(TaskPoller.resume)
    call_tool = _blocking(_call_tool)
    status = _blocking(TaskPoller.status)
    cancel = _blocking(TaskPoller.cancel)
    answer = _blocking(TaskPoller.answer)

    def _call(
        self,
        method: Callable[Concatenate[TaskPoller, ReconnectingSession, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        if self._session is None:
            raise RuntimeError("use the client in a with block")
        relay = _Relay()
        call = inspect.signature(method).bind(self._poller, self._session, *args, **kwargs)
        relay.take_over(call)
        return self._wait(method(*call.args, **call.kwargs), relay)

    async def _open(self) -> ReconnectingSession:
        return await self._open_session().__aenter__()

    def _wait(self, work: Coroutine[Any, Any, _T], relay: _Relay | None = None) -> _T:
        assert self._loop is not None
        relay = relay or _Relay()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            relay.serve_until(future)
            return future.result()
        except BaseException as error:
            if not future.done():
                future.cancel()
                if relay.noted is not None:
                    error.add_note(f"Task {relay.noted} was not cancelled and can be resumed.")
            raise

    def _stop(self) -> None:
        loop, self._loop, self._session = self._loop, None, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=10)


def _run(runner: asyncio.Runner) -> None:
    """The loop until it is stopped; the tasks that are left then are cancelled."""
    with runner:
        runner.get_loop().run_forever()


class _Relay:
    """Brings callbacks from the loop's thread to the one that waits."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.noted: str | None = None

    def take_over(self, call: inspect.BoundArguments) -> None:
        """Relay the callbacks among a call's arguments, and keep which task the call waits for."""
        given, known = call.arguments, call.signature.parameters
        for name in given.keys() & {"on_progress", "on_input"}:
            given[name] = self.here(given[name])
        if "on_submitted" in known:
            given["on_submitted"] = self.noting(given.get("on_submitted"))
        elif "on_progress" in known:
            self.noted = handle_of(given["task"]).task_ref

    def here(self, callback: Callable[[Any], Awaitable[Any] | Any] | None) -> Callable[[Any], Awaitable[Any]] | None:
        """The callback as the driver may call it: it runs where the waiting thread serves it."""
        if callback is None:
            return None

        async def relayed(given: Any) -> Any:
            answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

            def call() -> None:
                try:
                    answer.set_result(callback(given))
                except Exception as error:  # noqa: BLE001  raised where it is awaited
                    answer.set_exception(error)

            self._calls.put(call)
            return await settled(await asyncio.wrap_future(answer))

        return relayed

    def noting(self, callback: SubmittedCallback | None) -> SubmittedCallback:
        """`here`, and keep which task is waited for."""
        told = self.here(callback)

        async def submitted(handle: TaskHandle) -> None:
            self.noted = handle.task_ref
            if told is not None:
                await told(handle)

        return submitted

    def serve_until(self, future: concurrent.futures.Future[Any]) -> None:
        """Call what is to be called, until the future is done."""
        future.add_done_callback(lambda _: self._calls.put(None))
        while True:
            try:
                call = self._calls.get(timeout=_GLANCE_SECONDS)
            except queue.Empty:
                continue
            if call is None:
                return
            call()
