"""`notifications/progress` for a request that waits for a task: rising, at most one a second, none after the answer."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from mcp.server.context import ServerRequestContext

from raincheck.domain.task import Progress, Task
from raincheck.domain.unicode_text import well_formed

_INTERVAL_SECONDS = 1.0
_STEP = 0.001
"""How far a report rises that names no fraction, or none above the last: the protocol wants every one to be higher."""


class ProgressNotifications:
    """Tells one request's client of its task's progress (`raincheck.tasks.views.ProgressListener`)."""

    def __init__(self, ctx: ServerRequestContext[Any, Any]) -> None:
        self._session = ctx.session
        self._told: Progress | None = None
        self._value = 0.0
        self._next_at = -math.inf

    @classmethod
    def of(cls, ctx: ServerRequestContext[Any, Any]) -> ProgressNotifications | None:
        """For a request that carries a `progressToken`, else None."""
        return cls(ctx) if (ctx.meta or {}).get("progress_token") is not None else None

    async def progressed(self, task: Task) -> float:
        """See `ProgressListener.progressed`."""
        progress = task.progress
        if progress is None or progress == self._told:
            return math.inf
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            return self._next_at - now
        self._told = progress
        value = min(1.0, max(progress.fraction or 0.0, self._value + _STEP))
        if value <= self._value:
            return math.inf
        self._value, self._next_at = value, now + _INTERVAL_SECONDS
        await self._session.report_progress(self._value, 1.0, well_formed(progress.message or "") or None)
        return math.inf
