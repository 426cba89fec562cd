"""Synchronous tools that run as tasks: in threads as their host gives them, and in none that its other tools wait for.

Both hosts run synchronous functions in the threads of anyio, of which all calls together have 40: so many tasks that
take long would leave none for a tool that answers at once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from raincheck.operations.late_results import watched

__all__ = ["in_own_thread"]


def in_own_thread(function: Callable[..., Any], *, whole: bool = False) -> Callable[..., Any]:
    """An async function that runs this synchronous one in a thread of anyio's beyond those 40, `watched`.

    How many run at once is the engine's to bound. A function that is async already comes back as it is.

    Args:
        function: The tool's.
        whole: Whether what it yields is collected in the thread, and an awaitable that it returns awaited.
    """
    seen = watched(function)
    if seen is function:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        value = seen(*args, **kwargs)
        return list(value) if whole and inspect.isgenerator(value) else value

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        bound = functools.partial(call, *args, **kwargs)
        # Who cancels it is not kept waiting for the thread: `watched` tells what that returns.
        value = await anyio.to_thread.run_sync(bound, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        return await value if whole and inspect.isawaitable(value) else value

    # Not this function's own, where the other one has none: its signature says them.
    run.__annotations__ = dict(getattr(function, "__annotations__", {}))
    return run
