"""The driver for scripts without asyncio: `with connect("raincheck serve") as rc: rc.run("report", {...})`.

Connections live on an event loop in a thread of their own, so this works inside a running loop too (notebooks).
Callbacks are called in the thread that waits: they may block and ask a person.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from raincheck.client.models import (
    InputCallback,
    ProgressCallback,
    SubmittedCallback,
    TaskHandle,
    TaskResult,
    TaskView,
)
from raincheck.client.policy import PollingPolicy
from raincheck.client.poller import TaskPoller
from raincheck.client.reconnecting import ReconnectingSession
from raincheck.client.transports import Server, connector
from raincheck.client.wait import settled

__all__ = ["SyncClient", "connect"]

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


class SyncClient:
    """Runs operations of one server; made by `connect`. Usable from several threads at once.

    `KeyboardInterrupt`, like any other end of a wait, leaves the task running: its note names the task.
    """

    def __init__(self, open_session: Callable[[], ReconnectingSession], poller: TaskPoller) -> None:
        self._open_session = open_session
        self._poller = poller
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opened: ReconnectingSession | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="raincheck-client", daemon=True)
        self._thread.start()
        try:
            self._opened = self._wait(_Relay(self._loop), self._open())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._opened is not None:
                self._wait(_Relay(self._running), self._opened.__aexit__(None, None, None))
        finally:
            self._opened = None
            self._stop()

    def run(
        self,
        operation_type: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        max_wait_seconds: float | None = None,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
        on_submitted: SubmittedCallback | None = None,
    ) -> TaskResult:
        """Submit an operation and wait for its result. See `TaskPoller.run`."""
        relay = _Relay(self._running)
        return self._wait(
            relay,
            self._poller.run(
                self._session,
                operation_type,
                parameters,
                idempotency_key=idempotency_key,
                max_wait_seconds=max_wait_seconds,
                on_progress=relay.here(on_progress),
                on_input=relay.here(on_input),
                on_submitted=relay.noting(on_submitted),
            ),
        )

    def submit(
        self,
        operation_type: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        max_wait_seconds: float | None = None,
    ) -> TaskHandle:
        """Submit an operation; its handle. See `TaskPoller.submit`."""
        return self._wait(
            _Relay(self._running),
            self._poller.submit(
                self._session,
                operation_type,
                parameters,
                idempotency_key=idempotency_key,
                max_wait_seconds=max_wait_seconds,
            ),
        )

    def resume(
        self,
        task: TaskHandle | str,
        *,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
    ) -> TaskResult:
        """Wait for a task that was submitted before. See `TaskPoller.resume`."""
        relay = _Relay(self._running)
        relay.noted = task if isinstance(task, str) else task.task_ref
        return self._wait(
            relay,
            self._poller.resume(
                self._session, task, on_progress=relay.here(on_progress), on_input=relay.here(on_input)
            ),
        )

    def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_progress: ProgressCallback | None = None,
        on_input: InputCallback | None = None,
        on_submitted: SubmittedCallback | None = None,
    ) -> TaskResult:
        """Call a typed tool; its result, waited for where the call becomes a task. A call is never repeated."""
        relay = _Relay(self._running)

        async def called() -> TaskResult:
            return await self._poller.resolve_if_ticket(
                self._session,
                await self._session.call_tool(name, dict(arguments or {})),
                on_progress=relay.here(on_progress),
                on_input=relay.here(on_input),
                on_submitted=relay.noting(on_submitted),
            )

        return self._wait(relay, called())

    def status(self, task: TaskHandle | str, *, wait_seconds: float = 0.0) -> TaskView:
        """The task as it is. See `TaskPoller.status`."""
        return self._wait(_Relay(self._running), self._poller.status(self._session, task, wait_seconds=wait_seconds))

    def cancel(self, task: TaskHandle | str) -> TaskView:
        """End the task. See `TaskPoller.cancel`."""
        return self._wait(_Relay(self._running), self._poller.cancel(self._session, task))

    def answer(self, task: TaskHandle | str, responses: Mapping[str, Mapping[str, Any]]) -> TaskView:
        """Answer what the task asks. See `TaskPoller.answer`."""
        return self._wait(_Relay(self._running), self._poller.answer(self._session, task, responses))

    @property
    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("use the client in a with block")
        return self._loop

    @property
    def _session(self) -> ReconnectingSession:
        if self._opened is None:
            raise RuntimeError("use the client in a with block")
        return self._opened

    async def _open(self) -> ReconnectingSession:
        return await self._open_session().__aenter__()

    def _wait(self, relay: _Relay, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._running)
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
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(timeout=10)
        loop.close()


class _Relay:
    """Brings callbacks from the loop's thread to the one that waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.noted: str | None = None

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


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
