"""The lease of a running task: the operation's code runs only while it is verified.

A process that stood still learns of it too late: what was due goes on before anything of ours runs. So the
operation's coroutine, and each asyncio task that it makes, is driven through a wrapper that looks at the clock before
every step. Under a lease that is over no step is taken: it waits until the lease is renewed, or known to be lost.

What is not held: a step that has begun, plain callbacks (`call_soon`, `call_later`), threads, tasks made on a loop
whose task factory was replaced meanwhile, and what an operation leaves behind when it ends. The process's own tasks
that may first be needed in an operation's step are made with `context=Context()`. Processes are ended by the
orphan reaper, which is told of every renewal (`Lease.watch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, TypeVar

from raincheck.timing.clock import monotonic

_T = TypeVar("_T")

_CURRENT: ContextVar[Lease | None] = ContextVar("raincheck_lease", default=None)
_NEVER, _ALWAYS = float("-inf"), float("inf")
# Shares of a lease: it is left so long before its end, since the others' clocks are not ours to the millisecond and a
# process needs a moment to end; and half of that is what it is given, from SIGTERM to SIGKILL.
_MARGIN, _GRACE = 0.1, 0.05


def verified_until(asked: float, seconds: float) -> float:
    """Until when a lease of so many seconds is surely held that was asked for at that time
    (`raincheck.timing.clock`)."""
    return asked + seconds * (1 - _MARGIN)


def current_lease() -> Lease | None:
    """The lease under which this code runs; None outside of an operation's run."""
    return _CURRENT.get()


class Lease:
    """The lease of one start of a task, as far as this process is sure of it.

    Args:
        until: See the attribute.
        seconds: Its whole length.
        exclusive: See the property.
        lost: Called where the lease is found to be lost by what runs under it; on the event loop.

    Attributes:
        until: Until when it is surely held, on the clock of `raincheck.timing.clock`.
        revoked: Whether it is known to be lost.
        tolerated: Whether code that no other worker will run may go on although the lease was not renewed: the process
            did not stand still, it is only cut off from its store.
        stopping: Whether the code was told to stop, by a cancellation: that reaches it under a lost lease, too.
        grace_seconds: How long a process has from SIGTERM to SIGKILL that is ended at `until`.
        lost: See above.
        threads: Of each thread that works under it, a future that is done when the thread has returned.
    """

    __slots__ = (
        "_exclusive",
        "_loop",
        "_over",
        "_waiting",
        "_watchers",
        "grace_seconds",
        "lost",
        "revoked",
        "stopping",
        "threads",
        "tolerated",
        "until",
    )

    def __init__(self, until: float, *, seconds: float, exclusive: bool, lost: Callable[[], None]) -> None:
        self.until = until
        self.revoked = False
        self.stopping = False
        self.tolerated = False
        self.grace_seconds = seconds * _GRACE
        self.lost = lost
        self.threads: set[asyncio.Future[None]] = set()
        self._exclusive = exclusive
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        self._watchers: set[Callable[[float], None]] = set()

    @property
    def exclusive(self) -> bool:
        """Whether the code must not run without it: another worker may start the task again."""
        return self._exclusive

    @exclusive.setter
    def exclusive(self, exclusive: bool) -> None:
        if exclusive is not self._exclusive:
            self._exclusive = exclusive
            self._tell()

    def renew(self, until: float) -> None:
        """It is surely held until then; from any thread."""
        if self.revoked or self._over or until <= self.until:
            return
        self.until = until
        self.tolerated = False
        self._tell()
        if self._waiting:
            self._loop.call_soon_threadsafe(self._wake)

    def revoke(self) -> None:
        """It is lost: no step is taken any more, but to end what was told to end."""
        if not self._over:
            self.revoked = True
            self.until = _NEVER
            self._tell()
            self._wake()

    def tolerate(self) -> None:
        """See `tolerated`; on the event loop."""
        if not self.tolerated:
            self.tolerated = True
            self._wake()

    def stop(self) -> None:
        """The code is told to stop."""
        self.stopping = True
        self._wake()

    def end(self) -> None:
        """What ran under it has ended, or is ending: nothing is held any more."""
        self._over = True
        self.until = _ALWAYS
        self._wake()

    def holds(self, *, begun: bool, ending: bool) -> bool:
        """Whether a step has to wait.

        Args:
            begun: Whether the code has taken a step before; what has not begun begins under no lease that is over.
            ending: Whether the step is an exception thrown in, as a cancellation is.
        """
        if self._over or (ending and self.stopping):
            return False
        needed = self._exclusive or not begun or not self.tolerated
        return self.revoked or (needed and monotonic() >= self.until)

    def thread_works(self) -> Callable[[], None]:
        """A thread works under the lease (said in any thread); to be called on the event loop when it has returned."""
        returned = self._loop.create_future()
        self.threads.add(returned)

        def has_returned() -> None:
            self.threads.discard(returned)
            returned.set_result(None)

        return has_returned

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call it on the lease's event loop; from any thread. A loop that is closed hears nothing."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def wait(self) -> asyncio.Future[None]:
        """Done at the next news of the lease; to be given to `waited` afterwards."""
        waiter = self._loop.create_future()
        self._waiting.add(waiter)
        return waiter

    def waited(self, waiter: asyncio.Future[None]) -> None:
        """It is not waited for any more."""
        self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in tuple(self._waiting):
            if not waiter.done():
                waiter.set_result(None)

    @contextlib.contextmanager
    def watch(self, told: Callable[[float], None]) -> Generator[None]:
        """Meanwhile tell, from any thread, until when what runs beside this process may run on; at once, too."""
        self._watchers.add(told)
        told(self._deadline())
        try:
            yield
        finally:
            self._watchers.discard(told)

    def _deadline(self) -> float:
        if self.revoked:
            return monotonic()
        return self.until if self._exclusive else _ALWAYS

    def _tell(self) -> None:
        for told in tuple(self._watchers):
            told(self._deadline())


async def driven(start: Callable[[], Coroutine[Any, Any, _T]], lease: Lease) -> _T:
    """The operation's own code, each step of it under the lease."""
    _CURRENT.set(lease)
    return await _Steps(start(), lease, main=True)


class _Steps:
    """A coroutine that takes the steps of another one, and looks at the lease before each.

    What else is read of it, as libraries do with a task's coroutine (`cr_frame`, `__qualname__`), is the other's.
    """

    __slots__ = ("_coroutine", "_generator", "_lease", "_main", "send")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], lease: Lease, *, main: bool) -> None:
        self._coroutine = coroutine
        self._lease = lease
        self._main = main
        self._generator = self._taken()
        self.send = self._generator.send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._generator

    def throw(self, *error: Any) -> Any:
        """See `Coroutine.throw`."""
        if inspect.getgeneratorstate(self._generator) == inspect.GEN_CREATED:
            # Ended before its first step: it takes none.
            self._generator.close()
            return self._coroutine.throw(*error)
        return self._generator.throw(*error)

    def close(self) -> None:
        """See `Coroutine.close`."""
        self._generator.close()
        self._coroutine.close()

    def _taken(self) -> Generator[Any, Any, Any]:
        lease, send = self._lease, self._coroutine.send
        value: Any = None
        error: BaseException | None = None
        begun = told = False
        while True:
            if (lease.revoked or monotonic() >= lease.until) and not told:
                error = yield from self._held(error, begun=begun)
                if told := error is not None and lease.stopping:
                    # What it starts to end itself in order is not held.
                    _CURRENT.set(None)
            try:
                awaited = send(value) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                error = None
                if told and self._main and lease.revoked:
                    lease.end()
            begun = True
            try:
                value = yield awaited
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as raised:  # noqa: BLE001  it is the coroutine's, whatever it is
                value, error = None, raised

    def _held(self, error: BaseException | None, *, begun: bool) -> Generator[Any, Any, BaseException | None]:
        """Wait while the lease is over; what is thrown in meanwhile is thrown on afterwards, the last one counts."""
        lease = self._lease
        while lease.holds(begun=begun, ending=error is not None):
            waiter = lease.wait()
            try:
                # Renewed from another thread before it waited, it would not be woken.
                if lease.holds(begun=begun, ending=error is not None):
                    yield from waiter
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as raised:  # noqa: BLE001  as above
                error = raised
            finally:
                lease.waited(waiter)
        return error


Coroutine.register(_Steps)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]  an ABC


class _TaskFactory:
    """Makes a loop's tasks, and drives those of operations under their lease."""

    def __init__(self, previous: Callable[..., Any] | None) -> None:
        self.previous = previous
        self.users = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        context = options.get("context")
        lease = _CURRENT.get() if context is None else context.get(_CURRENT)
        if lease is not None:
            coroutine = _Steps(coroutine, lease, main=False)
        if self.previous is not None:
            return self.previous(loop, coroutine, **options)
        return asyncio.Task(coroutine, loop=loop, **options)


def hold_child_tasks() -> None:
    """From now on tasks that operations make on this loop are held to their lease; for each call one `let_…_go`."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    if not isinstance(factory, _TaskFactory):
        factory = _TaskFactory(factory)
        loop.set_task_factory(factory)
    factory.users += 1


def let_child_tasks_go() -> None:
    """The loop's tasks are made as before, unless another service still needs it or put a factory of its own there."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    if isinstance(factory, _TaskFactory):
        factory.users -= 1
        if not factory.users:
            loop.set_task_factory(factory.previous)
