"""Holds: answers kept back until the task ends or asks, for as long as the client is known to wait."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.context import ServerRequestContext

from raincheck.domain.task import Task
from raincheck.mcp.auth.scopes import scope_of
from raincheck.mcp.surfaces.progress_notifications import ProgressNotifications
from raincheck.mcp.wire.clients import client_of, gave_up
from raincheck.polling.patience import SHARE, Patience
from raincheck.tasks.registry import Registry

_SILENT_SECONDS = 2.0
"""A second query beside one that is younger is a parallel one."""


class _Hold:
    """One held answer: since when its client waits."""

    __slots__ = ("began",)

    def __init__(self, began: float) -> None:
        self.began = began


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
        # The latest hold of each task in each session, while it lasts.
        self._latest: dict[tuple[int, str], _Hold] = {}

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
        began: float | None = None,
    ) -> Task:
        """The task once it is terminal or waits for input, or as it is when `seconds` are over.

        Its progress is told to a client that asked for it: by `listener` where one request waits several times. A
        hang-up ends the wait, not the task.

        Args:
            ctx: The request.
            task_ref: Which task.
            seconds: The bound.
            began: Since when its client waits, by the event loop's clock, where that is longer ago than this call.

        Raises:
            TaskNotFound: As in `Registry.get`.
        """
        scope, client = scope_of(ctx), client_of(ctx)
        now = asyncio.get_running_loop().time
        key = (id(client.session), task_ref)
        earlier = None if client.session is None else self._latest.pop(key, None)
        # A client that asks about the task whose answer is still held for it timed out without a word (mcp 1.x).
        if earlier is not None and (after_seconds := now() - earlier.began) >= _SILENT_SECONDS:
            self._patience.hung_up(client, scope, after_seconds=after_seconds)
            seconds = await self.bounded(ctx, seconds)
        if seconds <= 0:
            return await self._registry.get(task_ref, scope=scope)
        hold = _Hold(now() if began is None else began)
        if client.session is not None:
            self._latest[key] = hold
        try:
            task = await self._registry.wait(
                task_ref, scope=scope, seconds=seconds, listener=listener or ProgressNotifications.of(ctx)
            )
            self._patience.answered(client, scope, after_seconds=now() - hold.began)
            return task
        except asyncio.CancelledError:
            # One that was asked about again has been counted.
            counted = client.session is not None and self._latest.get(key) is not hold
            if gave_up(ctx) and not counted:
                self._patience.hung_up(client, scope, after_seconds=now() - hold.began)
            raise
        finally:
            if self._latest.get(key) is hold:
                del self._latest[key]
