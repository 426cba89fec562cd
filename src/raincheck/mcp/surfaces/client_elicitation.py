"""A task's questions, put to the client of a request: by requests on its stream, or in the call's own answer.

On 2025-11-25 and older a server sends its client requests. Protocol 2026-07-28 has the multi-round-trip flow instead
(SEP-2322): a call is answered with questions, and repeated with `inputResponses`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from raincheck.domain.task import InputRequest, Task
from raincheck.domain.unicode_text import well_formed_json
from raincheck.mcp.wire import task_messages
from raincheck.tasks.registry import Registry

ELICITATION = "elicitation/create"

_MOST_ROUNDS = 8
"""Rounds of one call; the SDKs' clients give up at their tenth."""


def declared(ctx: ServerRequestContext[Any, Any], question: InputRequest) -> bool:
    """Whether the client says that it can answer such a question."""
    capabilities = ctx.session.client_capabilities
    if capabilities is None:
        return False
    if question.method != ELICITATION:
        return capabilities.sampling is not None
    able = capabilities.elicitation
    if able is None:
        return False
    if question.params.get("mode") == "url":
        return able.url is not None
    # One that names no mode has forms (2025-11-25, "Elicitation", Capabilities).
    return able.form is not None or able.url is None


def can_be_sent(ctx: ServerRequestContext[Any, Any], question: InputRequest) -> bool:
    """Whether the client can be sent the question on this request's stream."""
    return ctx.session.can_send_request and declared(ctx, question)


async def put_to_client(
    registry: Registry,
    ctx: ServerRequestContext[Any, Any],
    task: Task,
    questions: Sequence[InputRequest],
    scope: str,
    *,
    dismissed: Callable[[str], None] | None = None,
) -> None:
    """Send the questions in turn, and hand the answers in. It ends too when none of them is asked any more.

    Args:
        registry, ctx, task, questions, scope: Which questions, of whose task, for which client.
        dismissed: Told the key of a question that the client cancelled, in place of handing that in as its answer.

    Raises:
        MCPError: The client refused, or is gone; the question stays open.
    """
    asking = asyncio.create_task(_ask(registry, ctx, task.task_ref, questions, scope, dismissed))
    try:
        keys = {each.key for each in questions}
        while not asking.done() and keys & {each.key for each in task.outstanding}:
            changing = asyncio.create_task(registry.wait_for_change(task, scope=scope, seconds=60.0))
            try:
                await asyncio.wait({asking, changing}, return_when=asyncio.FIRST_COMPLETED)
                task = changing.result() if changing.done() else task
            finally:
                await _ended(changing)
        if asking.done():
            asking.result()
    finally:
        await _ended(asking)


async def _ask(
    registry: Registry,
    ctx: ServerRequestContext[Any, Any],
    task_ref: str,
    questions: Sequence[InputRequest],
    scope: str,
    dismissed: Callable[[str], None] | None,
) -> None:
    for question in questions:
        request = _ClientRequest(
            method=question.method, params=well_formed_json(task_messages.related(dict(question.params), task_ref))
        )
        answer = await ctx.session.send_request(request, _AnyResult, metadata=_on_this_stream(ctx))  # pyright: ignore[reportArgumentType]
        given = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        if dismissed is not None and is_dismissal(given):
            dismissed(question.key)
            continue
        await registry.provide_input(task_ref, {question.key: given}, scope=scope)


def is_dismissal(response: Mapping[str, Any]) -> bool:
    """Whether nothing was chosen: the dialog was closed, or the host has no user to show one to."""
    return response.get("action") == "cancel"


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _ClientRequest(BaseModel):
    """A question as the SDK sends it: whatever method and params the task asked with."""

    method: str
    params: dict[str, Any]


class _AnyResult(BaseModel, extra="allow"):
    """Whatever the client answered."""


def _on_this_stream(ctx: ServerRequestContext[Any, Any]) -> Any:
    from mcp.shared.message import ServerMessageMetadata

    return ServerMessageMetadata(related_request_id=ctx.request_id)


# The multi-round-trip flow.


class Round(NamedTuple):
    """What a repeated call brings.

    Attributes:
        task_ref: Whose questions were asked.
        number: Which round it answers, from 1.
        responses: The answers by the questions' keys.
    """

    task_ref: str
    number: int
    responses: Mapping[str, Mapping[str, Any]]


def client_call(ctx: ServerRequestContext[Any, Any], tool: str) -> Mapping[str, Any]:
    """The params of the request where it is the client's call of this very tool, else none: a tool may call another."""
    params = ctx.params
    return params if ctx.method == "tools/call" and params is not None and params.get("name") == tool else {}


def asking_round(
    ctx: ServerRequestContext[Any, Any], tool: str, task: Task, questions: Sequence[InputRequest]
) -> dict[str, Any] | None:
    """The answer that asks these questions; None for a call that cannot be answered so.

    The key of each names the task, which the repeated call finds by it: the keys come back from every client, whereas
    `requestState` is lost by some, and the SDK's servers take it from no other process and not after ten minutes.
    """
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS or not client_call(ctx, tool):
        return None
    before = answered_round(ctx, tool)
    number = 1 if before is None else before.number + 1
    asked = {
        f"{task.task_ref}.{number}.{each.key}": {"method": each.method, "params": dict(each.params)}
        for each in questions
        if declared(ctx, each)
    }
    return {"resultType": "input_required", "inputRequests": asked} if asked and number <= _MOST_ROUNDS else None


def answered_round(ctx: ServerRequestContext[Any, Any], tool: str) -> Round | None:
    """The answers to an `asking_round` that this call brings, None where it brings none.

    They are the client's word: whose task it is, and whether it is this call's, is the caller's to check.
    """
    given: Any = client_call(ctx, tool).get("inputResponses")
    if not isinstance(given, Mapping):
        return None
    found: Round | None = None
    for name, response in given.items():  # pyright: ignore[reportUnknownVariableType]
        task_ref, number, key = [*str(name).split(".", 2), "", ""][:3]  # pyright: ignore[reportUnknownArgumentType]
        if not (key and number.isdecimal() and len(number) <= 2 and isinstance(response, Mapping)):
            continue
        found = found or Round(task_ref, int(number), {})
        if task_ref == found.task_ref:
            found = found._replace(responses={**found.responses, key: dict(response)})  # pyright: ignore[reportUnknownArgumentType]
    return found
