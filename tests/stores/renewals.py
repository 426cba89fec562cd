"""The renewal of leases on the event loop of another thread, as the heartbeat renews them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from raincheck.ports.task_store import TaskStore

__all__ = ["Renew", "elsewhere"]

_T = TypeVar("_T")

Renew = Callable[..., Awaitable[set[str]]]
"""`TaskStore.renew`, of whichever loop."""


@asynccontextmanager
async def elsewhere(store: TaskStore) -> AsyncGenerator[Renew]:
    """`renew` on another event loop than this one, in a thread of its own, which does not need this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def there(call: Coroutine[Any, Any, _T]) -> asyncio.Future[_T]:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, loop))

    stack = AsyncExitStack()
    try:
        renewer = await there(stack.enter_async_context(store.renewer()))
        yield lambda *arguments, **options: there(renewer.renew(*arguments, **options))
    finally:
        await there(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()
