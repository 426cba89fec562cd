"""Exits inside operations: `sys.exit` and `KeyboardInterrupt` end the attempt, never the server.

asyncio stores what a task raises, but these two it also lets out of the event loop, wherever they are raised: in a task
that an operation made, or in a callback. There they are met by the guard of the loop, which knows the attempt by its
context. What the operator's own Ctrl-C or SIGTERM raises goes through, whatever it interrupts.
"""

from __future__ import annotations

import asyncio
import dis
import functools
import logging
import signal
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, TracebackType
from typing import Any

from raincheck.domain.redaction import redact
from raincheck.errors import OperationFailed

logger = logging.getLogger(__name__)

_CURRENT: ContextVar[Exits | None] = ContextVar("raincheck_exits", default=None)
_LONGEST_CODE = 80
_RAISING = {"RAISE_VARARGS", "RERAISE"}


class Exits:
    """The attempts of one attempt's code to end the process, beside its own coroutine.

    Attributes:
        error: The first one, None before.
    """

    __slots__ = ("_over", "_task", "error")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.error: BaseException | None = None
        self._task = task
        self._over = False

    def tried(self, error: BaseException) -> None:
        """A task or callback of the attempt raised that: the attempt is to end."""
        if self._over:
            logger.warning("what an operation left behind raised %s", type(error).__name__)
        elif self.error is None:
            self.error = error
            self._task.cancel()

    def end(self) -> None:
        """The attempt has ended; its cancellation is not one of its waiter."""
        self._over = True
        if self.error is not None:
            self._task.uncancel()


@contextmanager
def watched_exits() -> Generator[Exits]:
    """The code of the block, with the tasks and callbacks that begin in it, is one attempt."""
    task = asyncio.current_task()
    assert task is not None
    exits = Exits(task)
    token = _CURRENT.set(exits)
    try:
        yield exits
    finally:
        exits.end()
        _CURRENT.reset(token)


def stopped(error: BaseException) -> OperationFailed:
    """The failure of an operation that tried to end the process."""
    if isinstance(error, SystemExit):
        return OperationFailed(f"the operation called sys.exit({_shown(error.code)}); it must return or raise instead")
    return OperationFailed(f"the operation raised {type(error).__name__}")


def by_signal(error: BaseException) -> bool:
    """Whether the handler of a signal raised it (the operator's Ctrl-C), in the midst of whatever ran."""
    ordinary = isinstance(error, Exception | asyncio.CancelledError)
    if ordinary or threading.current_thread() is not threading.main_thread():
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    if any(frame.f_code in handlers for frame in frames):
        return True
    if not isinstance(error, KeyboardInterrupt) or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    # Python's own handler has no frame: what it interrupted was not about to raise.
    return not frames or not _was_raising(error.__traceback__)


def guard_loop() -> None:
    """From now on no attempt ends this event loop; for each call one `leave_loop`. Loops that are not asyncio's own
    are left as they are."""
    loop: Any = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):
        guard = loop.__dict__.get("_run_once")
        if not isinstance(guard, _Guard):
            guard = loop.__dict__["_run_once"] = _Guard(getattr(loop, "_run_once"))  # noqa: B009
        guard.users += 1


def leave_loop() -> None:
    """The loop is as before, unless another service still needs it."""
    attributes = asyncio.get_running_loop().__dict__
    guard = attributes.get("_run_once")
    if isinstance(guard, _Guard):
        guard.users -= 1
        if not guard.users:
            del attributes["_run_once"]


class _Guard:
    """One turn of the loop. What it had not come to when it was left is still in the loop's queue."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self._turn = turn
        self.users = 0

    def __call__(self) -> None:
        try:
            self._turn()
        except (SystemExit, KeyboardInterrupt) as error:
            exits = _attempt_of(error)
            if exits is None or by_signal(error):
                raise
            exits.tried(error)


def _attempt_of(error: BaseException) -> Exits | None:
    """Whose callback it was: that of the handle that the loop ran."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is asyncio.Handle._run.__code__:  # pyright: ignore[reportPrivateUsage]
            return frame.f_locals["self"]._context.get(_CURRENT)
    return None


def _shown(code: Any) -> str:
    try:
        return redact(repr(code))[:_LONGEST_CODE]
    except Exception:  # noqa: BLE001  an object of the operation's, and its end has to be told all the same
        return f"a value of type {type(code).__name__}"


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    function: Any = getattr(handler, "__func__", handler)  # pyright: ignore[reportUnknownArgumentType]
    return getattr(function, "__code__", None)


def _was_raising(innermost: TracebackType | None) -> bool:
    assert innermost is not None
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code.co_code
    return dis.opname[code[innermost.tb_lasti]] in _RAISING
