"""Commands to a Redis server: one class for each kind, with the reading of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from raincheck.errors import StoreUnavailable
from raincheck.stores.redis.scripts import Script, encode_command


class ServerClock:
    """What the server's clock shows, reckoned from the event loop's."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def set(self, server: float, local: float) -> None:
        """The server's clock showed `server` (seconds since 1970) at `local` (monotonic seconds) or before."""
        self._ahead = server - local

    def milliseconds(self, local: float) -> bytes:
        """What the server's clock will show at `local`."""
        return b"%d" % ((local + self._ahead) * 1000)


class Call:
    """A command on its way.

    Attributes:
        done: Gets the result.
        size: About how many bytes it has.
        give_up_at: When the caller is told that there was no answer, in seconds of the loop's clock.
        late_at: When the server is no longer to do it: soon enough before for the answer to arrive.
        unanswered: Whether it was sent, and its answer is lost or did not come in time.
    """

    __slots__ = ("_command", "_finish", "done", "give_up_at", "late_at", "size", "unanswered")

    def __init__(self, command: bytes, finish: Callable[[Any], Any], done: asyncio.Future[Any]) -> None:
        self.done = done
        self.size = len(command)
        self.give_up_at = 0.0
        self.late_at = 0.0
        self.unanswered = False
        self._command = command
        self._finish = finish

    def encoded(self, clock: ServerClock, news: bytes) -> bytes:
        """The command as it is to be sent now; `news` is what it tells other processes."""
        return self._command

    def by_text(self) -> None:
        """The server does not know its script: send it along."""
        raise NotImplementedError

    def finish(self, answer: Any) -> None:
        """The answer is here: give its meaning to the caller, if there still is one."""
        try:
            result = self._finish(answer)
        except Exception as error:  # noqa: BLE001 - boundary: the caller gets it
            self.fail(error)
        else:
            if not self.done.done():
                self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        """There is no answer, or a bad one."""
        if not self.done.done():
            self.done.set_exception(error)


class ScriptCall(Call):
    """A script that only reads."""

    __slots__ = ("_arguments", "_by_text", "_root", "_script")

    def __init__(
        self,
        script: Script,
        root: bytes,
        arguments: list[bytes],
        finish: Callable[[Any], Any],
        done: asyncio.Future[Any],
    ) -> None:
        super().__init__(b"", finish, done)
        self._script = script
        self._root = root
        self._arguments = arguments
        self._by_text = False
        self.size = sum(map(len, arguments))

    def encoded(self, clock: ServerClock, news: bytes) -> bytes:
        """See `Call.encoded`."""
        return encode_command(self._script.command(self._root, self._arguments, by_text=self._by_text))

    def by_text(self) -> None:
        """See `Call.by_text`."""
        self._by_text = True


class Write(ScriptCall):
    """A script that writes: its first argument is when it is too late, its second (with `task_ref`) what is told.

    Attributes:
        task_ref: Which task is announced to other processes; None: none.
    """

    __slots__ = ("task_ref",)

    def __init__(
        self,
        script: Script,
        root: bytes,
        arguments: list[bytes],
        finish: Callable[[Any], Any],
        done: asyncio.Future[Any],
        task_ref: bytes | None,
    ) -> None:
        super().__init__(script, root, arguments, finish, done)
        self.task_ref = task_ref

    def encoded(self, clock: ServerClock, news: bytes) -> bytes:
        """See `Call.encoded`."""
        told = [] if self.task_ref is None else [news]
        arguments = [clock.milliseconds(self.late_at), *told, *self._arguments]
        return encode_command(self._script.command(self._root, arguments, by_text=self._by_text))

    def fail(self, error: Exception) -> None:
        """See `Call.fail`. The error may be that of many calls."""
        if self.unanswered and isinstance(error, StoreUnavailable):
            error = StoreUnavailable(error.message, maybe_done=True)
        super().fail(error)
