"""Answers that are held: until the task ends or asks something, for as long as the client is known to wait."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.context import ServerRequestContext

from raincheck.mcp.clients import client_of, gave_up
from raincheck.mcp.progress_notifications import ProgressNotifications
from raincheck.mcp.scopes import scope_of
from raincheck.polling.patience import SHARE, Patience
from raincheck.registry import Registry
from raincheck.task import Task

__all__ = ["Holds"]


class Holds:
    """Holds the answers of one server.

    Args:
        registry: The use cases.
        patience: How long clients wait.
        hold_seconds: How long an answer is held for a client of which nothing is known.
        max_hold_seconds: How long at the most.

    Attributes:
        longest: `max_hold_seconds`.
    """

    def __init__(self, registry: Registry, patience: Patience, *, hold_seconds: float, max_hold_seconds: float) -> None:
        self._registry = registry
        self._patience = patience
        self._hold_seconds = min(hold_seconds, max_hold_seconds)
        self.longest = max_hold_seconds

    async def offered(self, ctx: ServerRequestContext[Any, Any]) -> tuple[float, bool]:
        """How long an answer is held that names no time, and whether that is all the client's patience allows."""
        patience = await self._patience.seconds(client_of(ctx), scope_of(ctx))
        if patience is None or not self._hold_seconds:
            return self._hold_seconds, not self._hold_seconds
        return min(self.longest, patience * SHARE), True

    async def bounded(self, ctx: ServerRequestContext[Any, Any], asked: float) -> float:
        """How long an answer is held that was asked to be held so long."""
        patience = await self._patience.seconds(client_of(ctx), scope_of(ctx))
        return min(asked, self.longest if patience is None else min(self.longest, patience * SHARE))

    async def wait(
        self,
        ctx: ServerRequestContext[Any, Any],
        task_ref: str,
        seconds: float,
        *,
        listener: ProgressNotifications | None = None,
    ) -> Task:
        """The task once it is terminal or waits for input, or as it is when `seconds` are over.

        Its progress is told to a client that asked for it: by `listener` where one request waits several times. A
        hang-up ends the wait, not the task.

        Raises:
            TaskNotFound: As in `Registry.get`.
        """
        scope = scope_of(ctx)
        if seconds <= 0:
            return await self._registry.get(task_ref, scope=scope)
        now = asyncio.get_running_loop().time
        began = now()
        try:
            return await self._registry.wait(
                task_ref, scope=scope, seconds=seconds, listener=listener or ProgressNotifications.of(ctx)
            )
        except asyncio.CancelledError:
            if gave_up(ctx):
                self._patience.hung_up(client_of(ctx), scope, after_seconds=now() - began)
            raise
