"""The handle tools: start, follow and end tasks from any MCP client (design.md §4)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from mcp.server.context import ServerRequestContext

from raincheck.domain.redaction import redacting, secret_texts
from raincheck.domain.task import TaskStatus
from raincheck.errors import InvalidParameters, TaskNotFound, UnknownOperation
from raincheck.mcp.auth.scopes import ANONYMOUS, caller_of, scope_of
from raincheck.mcp.surfaces.argument_repairs import mended
from raincheck.mcp.surfaces.handle_answers import HandleAnswers
from raincheck.mcp.surfaces.handle_definitions import HANDLE_TOOLS
from raincheck.mcp.surfaces.holds import Holds
from raincheck.mcp.surfaces.host_elicitation import HostElicitation
from raincheck.mcp.surfaces.result_pages import PageRequest, ResultPages, page_request
from raincheck.mcp.wire import tool_results
from raincheck.mcp.wire.tool_use_ids import ToolUseIds
from raincheck.tasks.registry import Registry
from raincheck.tasks.results import Results

_LONGEST_LIST = 200
_Context = ServerRequestContext[Any, Any]


_BY_NAME = {tool.name: tool for tool in HANDLE_TOOLS}


class HandleTools:
    """Answers calls of the handle tools.

    Args:
        registry: The use cases.
        answers: Makes tickets and statuses.
        holds: Holds answers.
        results: Where large results are.
        elicitation: Has users asked.
        tool_uses: Finds the ids of tool uses.
    """

    def __init__(
        self,
        registry: Registry,
        answers: HandleAnswers,
        holds: Holds,
        results: Results,
        elicitation: HostElicitation,
        tool_uses: ToolUseIds,
    ) -> None:
        self._registry = registry
        self._answers = answers
        self._holds = holds
        self._pages = ResultPages(results)
        self._elicitation = elicitation
        self._tool_uses = tool_uses
        self._handlers: dict[str, Callable[[Mapping[str, Any], _Context], Awaitable[dict[str, Any]]]] = {
            "initiate_background_task": self._initiate,
            "resolve_task_status": self._resolve,
            "cancel_background_task": self._cancel,
            "provide_task_input": self._provide,
            "list_background_tasks": self._list,
        }

    async def call(self, name: str, arguments: Mapping[str, Any], ctx: _Context) -> dict[str, Any]:
        """The result of a call; errors are results too."""
        with redacting(self._secret_texts(name, arguments)):
            return await tool_results.answer_errors(self._checked_call(name, arguments, ctx))

    def _secret_texts(self, name: str, arguments: Mapping[str, Any]) -> Collection[str]:
        """What nothing may repeat that is logged while the call is answered."""
        parameters, operation_type = arguments.get("parameters"), arguments.get("operation_type")
        if name != "initiate_background_task" or not isinstance(parameters, Mapping):
            return ()
        try:
            operation = self._registry.operation(str(operation_type))
        except UnknownOperation:
            return ()
        return secret_texts(parameters, operation.secret_parameters)  # pyright: ignore[reportUnknownArgumentType]

    async def _checked_call(self, name: str, arguments: Mapping[str, Any], ctx: _Context) -> dict[str, Any]:
        tool = _BY_NAME[name]
        for key in arguments:
            if key not in tool.properties and key not in tool.unlisted:
                allowed = ", ".join((*tool.properties, *tool.unlisted))
                raise InvalidParameters(f"{name} has no parameter {key[:80]!r}. Allowed: {allowed}.")
        for key in tool.required:
            if key not in arguments:
                raise InvalidParameters(f"{name} needs the parameter {key!r}.")
        return await self._handlers[name](mended(tool, arguments), ctx)

    async def _initiate(self, arguments: Mapping[str, Any], ctx: _Context) -> dict[str, Any]:
        full = _full(arguments)
        parameters = arguments.get("parameters")
        submission = await self._registry.submit(
            _text(arguments, "operation_type"),
            {} if parameters is None else _object(arguments, "parameters"),
            scope=scope_of(ctx),
            caller=caller_of(ctx),
            max_wait_seconds=_number(arguments, "max_wait_seconds"),
            idempotency_key=_text(arguments, "idempotency_key")
            if arguments.get("idempotency_key") is not None
            else None,
            callback_url=_text(arguments, "callback_url") if arguments.get("callback_url") is not None else None,
            tool_use=self._tool_uses.key_of(ctx, "initiate_background_task"),
        )
        return await self._answers.ticket(submission, ctx, full=full)

    async def _resolve(self, arguments: Mapping[str, Any], ctx: _Context) -> dict[str, Any]:
        full, task_ref, asked = (
            _full(arguments),
            _text(arguments, "task_ref"),
            _number(arguments, "wait_seconds"),
        )
        if asked is not None and asked < 0:
            raise InvalidParameters(f"wait_seconds must be from 0 to {self._holds.longest:g}; it was {asked:g}.")
        page = page_request(arguments)
        seconds = (await self._holds.offered(ctx))[0] if asked is None else await self._holds.bounded(ctx, asked)
        await self._elicitation.answered(ctx, "resolve_task_status", task_ref)
        try:
            if asked == 0:
                task = await self._registry.get(task_ref, scope=scope_of(ctx))
            else:
                task = await self._elicitation.wait(ctx, task_ref, seconds)
        except TaskNotFound:
            # The large result of a call without a task has a ref of its own.
            answer = await self._pages.of_request(task_ref, scope_of(ctx), page or PageRequest())
            if answer is None:
                raise
            return tool_results.json_result(answer)
        if page is not None and (answer := await self._pages.of_task(task, page)) is not None:
            return tool_results.json_result(answer)
        questions = None if asked == 0 else self._elicitation.round(ctx, "resolve_task_status", task)
        return await self._answers.status(task, ctx, full=full) if questions is None else questions

    async def _cancel(self, arguments: Mapping[str, Any], ctx: _Context) -> dict[str, Any]:
        full = _full(arguments)
        task = await self._registry.cancel(_text(arguments, "task_ref"), scope=scope_of(ctx))
        return await self._answers.status(task, ctx, full=full)

    async def _provide(self, arguments: Mapping[str, Any], ctx: _Context) -> dict[str, Any]:
        full, responses = _full(arguments), _object(arguments, "responses")
        for key, response in responses.items():
            if not isinstance(response, dict):
                raise InvalidParameters(f"The response to {key[:80]!r} must be an object with an action.")
        task_ref, scope = _text(arguments, "task_ref"), scope_of(ctx)
        self._elicitation.check_model_may_answer(await self._registry.get(task_ref, scope=scope), responses)
        task = await self._registry.provide_input(task_ref, responses, scope=scope)
        return await self._answers.status(task, ctx, full=full, again=False)

    async def _list(self, arguments: Mapping[str, Any], ctx: _Context) -> dict[str, Any]:
        scope = scope_of(ctx)
        if scope == ANONYMOUS:
            raise InvalidParameters(
                "list_background_tasks is off for callers without authentication: they could see each other's tasks."
            )
        tasks = await self._registry.list(scope=scope, statuses=_statuses(arguments), limit=_limit(arguments))
        return tool_results.json_result({"tasks": [tool_results.summary_of(task) for task in tasks]})


def _text(arguments: Mapping[str, Any], key: str) -> str:
    value = arguments[key]
    if not isinstance(value, str) or not value:
        raise InvalidParameters(f"{key} must be a text that is not empty; it was {_kind(value)}.")
    return value


def _full(arguments: Mapping[str, Any]) -> bool | None:
    """Whether the call asks for the full form; None where it says nothing of it."""
    detail = arguments.get("detail")
    if detail not in (None, "compact", "full"):
        raise InvalidParameters('detail must be "compact" or "full".')
    return None if detail is None else detail == "full"


def _object(arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = arguments[key]
    if not isinstance(value, dict):
        raise InvalidParameters(f"{key} must be a JSON object; it was {_kind(value)}.")
    return value  # pyright: ignore[reportUnknownVariableType]  JSON objects have text keys


def _number(arguments: Mapping[str, Any], key: str) -> float | None:
    value = arguments.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidParameters(f"{key} must be a number of seconds; it was {_kind(value)}.")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidParameters(f"{key} must be a finite number of seconds.")
    return seconds


def _statuses(arguments: Mapping[str, Any]) -> Collection[TaskStatus]:
    value = arguments.get("status")
    if value is None:
        return ()
    try:
        return (TaskStatus(value),)
    except ValueError:
        allowed = ", ".join(status.value for status in TaskStatus)
        raise InvalidParameters(f"status must be one of {allowed}.") from None


def _limit(arguments: Mapping[str, Any]) -> int:
    value = arguments.get("limit", 20)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LONGEST_LIST:
        raise InvalidParameters(f"limit must be a whole number from 1 to {_LONGEST_LIST}.")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if value == "":
        return "empty text"
    names = {"str": "text", "bool": "a boolean", "int": "a number", "float": "a number", "list": "a list"}
    return names.get(type(value).__name__, "an object")
