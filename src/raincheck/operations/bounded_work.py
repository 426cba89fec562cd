"""How long one validation may take, by the processor time of its thread; nothing here needs the JSON Schema library."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

LONGEST_WORK_SECONDS = 5.0
"""How long one validation may take where its caller set no bound, in seconds of the processor."""


class TooMuchWork(Exception):
    """A validation took more than it was given."""


class _Work(threading.local):
    """The running validation of a thread: how long it may take, and what it has found.

    Attributes:
        until: When it has taken too long, by this thread's processor time; 0: never.
        steps: Counts the keywords.
        known: Whether an array or object fits a part of the schema, by their ids: what stands in a recursive schema
            would else be checked again from every branch, and from each of those again.
        remembers: Whether anything is put there.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self.steps = 0
        self.known: dict[tuple[int, int], bool] = {}
        self.remembers = False


WORK = _Work()
"""The running validation of this thread."""


@contextmanager
def bounded_work(seconds: float) -> Generator[None]:
    """Bound the validations in the block: `TooMuchWork` once they have had this thread's processor for so long.

    Blocks do not nest: the outermost one counts.
    """
    if WORK.until:
        yield
        return
    WORK.until = time.thread_time() + seconds
    try:
        yield
    finally:
        WORK.until = 0.0
