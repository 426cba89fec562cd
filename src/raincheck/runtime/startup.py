"""A quick start: what is imported stays, so no garbage collection goes through it while it grows."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Generator[None]:
    """No garbage collection while the block imports, and none of what it imported afterwards.

    Each full collection of a server's modules takes some 50 ms, several of them come while they are imported, and they
    find nothing. For a process of our own only: what is garbage at the end of the block is kept.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
