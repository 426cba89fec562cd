"""Synchronous tools that run as tasks: in threads as their host gives them, and in none that its other tools wait for.

Both hosts run synchronous functions in the threads of anyio, of which all calls together have 40: so many tasks that
take long would leave none for a tool that answers at once.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread

from raincheck.operations.late_results import watched


def in_own_thread(function: Callable[..., Any], *, whole: bool = False) -> Callable[..., Any]:
    """An async function that runs this synchronous one in a thread of anyio's beyond those 40, `watched`.

    How many run at once is the engine's to bound. A function that is async already comes back as it is.

    Args:
        function: The tool's.
        whole: Whether what it yields is collected in the thread, and an awaitable that it returns awaited.
    """
    call = watched(function, _given_up)
    if call is function:
        return function
    if whole:
        # What it yields is collected in there: until then it has hardly begun.
        call = watched(_collected(function), _given_up)

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        bound = functools.partial(call, *args, **kwargs)
        value = await anyio.to_thread.run_sync(bound, limiter=anyio.CapacityLimiter(1))
        return await value if whole and inspect.isawaitable(value) else value

    # Not this function's own, where the other one has none: its signature says them.
    run.__annotations__ = dict(getattr(function, "__annotations__", {}))
    return run


def _given_up() -> bool:
    # The cancelling of a request, unlike that of a task, waits for the thread.
    try:
        anyio.from_thread.check_cancelled()
    except asyncio.CancelledError:
        return True
    return False


def _collected(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        return list(value) if inspect.isgenerator(value) else value

    return call
