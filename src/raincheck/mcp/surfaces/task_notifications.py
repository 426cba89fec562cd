"""`notifications/tasks` on a `subscriptions/listen` stream that names task ids (SEP-2663)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from pydantic import BaseModel

from raincheck.domain.unicode_text import well_formed_json
from raincheck.errors import TaskNotFound
from raincheck.mcp.auth.scopes import scope_of
from raincheck.mcp.surfaces.negotiation import TASKS_EXTENSION, declares_tasks, missing_capability
from raincheck.mcp.surfaces.task_handles import TaskHandles
from raincheck.tasks.registry import Registry

_MOST_TASKS = 1000

_BYTES_OF_A_TASK = 1024
"""What following a task takes."""


class _Notification(BaseModel):
    """A notification as the SDK sends it."""

    method: str
    params: dict[str, Any]


async def listen(
    ctx: ServerRequestContext[Any, Any], registry: Registry, handles: TaskHandles, reserve: Callable[[int], None]
) -> dict[str, Any]:
    """Serve one listen stream: the acknowledgement, then each named task whole, now and after every change.

    Of what the request asks for, only the task ids are honoured, and of these only the caller's own; the answer
    says so. The stream ends when every task is terminal.

    Args:
        ctx: The request.
        registry: Finds the tasks.
        handles: Makes what is sent of them.
        reserve: Counts the bytes that are held meanwhile.

    Raises:
        MCPError: The request did not declare the extension (-32021), or its task ids are not a list of texts (-32602).
        RateLimited: The scope has too much under way.
    """
    if not declares_tasks(ctx):
        raise missing_capability(f"taskIds need a client with the {TASKS_EXTENSION} extension")
    asked: Any = (ctx.params or {})["notifications"]["taskIds"]
    if not isinstance(asked, list) or len(asked) > _MOST_TASKS or not all(isinstance(each, str) for each in asked):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        raise MCPError(INVALID_PARAMS, f"taskIds must be a list of at most {_MOST_TASKS} task ids")
    meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
    scope = scope_of(ctx)
    task_refs = await _known(registry, asked, scope)  # pyright: ignore[reportUnknownArgumentType]
    reserve(len(task_refs) * _BYTES_OF_A_TASK)

    async def send(method: str, params: dict[str, Any]) -> None:
        notification: Any = _Notification(method=method, params=well_formed_json({**params, "_meta": meta}))
        await ctx.session.send_notification(notification, related_request_id=ctx.request_id)

    await send("notifications/subscriptions/acknowledged", {"notifications": {"taskIds": task_refs}})
    async with aclosing(registry.follow(task_refs, scope=scope)) as tasks:
        async for task in tasks:
            await send("notifications/tasks", handles.detailed(task))
    return {"resultType": "complete", "_meta": meta}


async def _known(registry: Registry, task_refs: Sequence[str], scope: str) -> list[str]:
    """Those of these tasks that are the scope's own, in order."""
    known: list[str] = []
    for task_ref in dict.fromkeys(task_refs):
        try:
            await registry.get(task_ref, scope=scope)
        except TaskNotFound:
            continue
        known.append(task_ref)
    return known
