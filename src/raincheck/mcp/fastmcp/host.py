"""`Raincheck` for a FastMCP server: the same surfaces as on the SDK's `MCPServer`, by FastMCP's own extension API."""

# FastMCP is an extra, and not there where raincheck is developed: what comes from it is unknown to the type checker.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false, reportUnknownArgumentType=false
# pyright: reportMissingModuleSource=false

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, Never

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.dependencies import fastmcp_request_ctx
from fastmcp.server.extensions import MethodBinding, ServerExtension
from fastmcp.server.middleware import Middleware
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ServerTasksCapability,
    ToolExecution,
)
from pydantic import BaseModel

from raincheck.domain.caller import Caller
from raincheck.errors import ConfigurationError, UnknownOperation
from raincheck.mcp import tool_listing
from raincheck.mcp.admission.admission import Lease
from raincheck.mcp.fastmcp.tools import AnsweredTool, existing_tool_operation, outside_any_request
from raincheck.mcp.host import TaskHost
from raincheck.mcp.surfaces.handle_definitions import HANDLE_NAMES, HANDLE_TOOLS
from raincheck.mcp.surfaces.negotiation import CORE_TASKS_VERSION, TASKS_EXTENSION
from raincheck.mcp.surfaces.result_resources import with_template
from raincheck.mcp.surfaces.task_methods import task_bindings
from raincheck.mcp.surfaces.typed_tools import task_support
from raincheck.mcp.wire import tool_results
from raincheck.operations.operation import Operation, Policy

logger = logging.getLogger(__name__)

_core_answer: ContextVar[dict[str, Any] | None] = ContextVar("raincheck_core_answer", default=None)
"""Where the answer to a core task's call is left for the SDK's layer, which FastMCP's layers cannot carry it to."""


class _Handle(BaseModel, extra="allow"):
    """A task's handle on the wire; FastMCP hands it on as it is."""


class Raincheck(TaskHost, ServerExtension):
    """Background tasks for a FastMCP server.

    ::

        rc = Raincheck(tools="slow_*")
        mcp = FastMCP("reports")
        mcp.add_extension(rc)

    Register it on the server that you run: a mounted server's extensions are its own, while the tools of mounted
    servers can be named by pattern like any other.

    Args:
        tools: Name patterns (as of shells) of the server's own tools that become operations, unchanged.
        store: Where tasks are kept: a path (SQLite), a store, or None for the settings' one.
        results: Where large results are kept: a folder, a blob store, or None as the settings say.
        policy: How those tools are run and answered, and the operations that say nothing of their own.
        settings: All settings at once (`raincheck.load_settings`); their operations are declared by `serve` only.
        webhooks: Keys of [webhooks], over those of the settings.
        outlive_client: `MODULE:RAINCHECK`, by which a worker imports this object: tasks go on when the client ends the
            server.

    Raises:
        ConfigurationError: A setting or a declaration is wrong.
    """

    identifier = TASKS_EXTENSION
    _host: FastMCP | None = None
    _made_up_name: str | None = None
    _serves_core_tasks = False

    # FastMCP's extension API.

    def tools(self) -> Never:
        """What the SDK's `MCPServer` asks of its extensions.

        Raises:
            ConfigurationError: Always: that server has a `Raincheck` of its own.
        """
        raise ConfigurationError(
            "this Raincheck is for a FastMCP server; for the SDK's MCPServer import it by: "
            "from raincheck import Raincheck"
        )

    def methods(self) -> Sequence[MethodBinding]:
        """See `ServerExtension.methods`: those of the tasks extension, and of the core tasks of 2025-11-25."""
        self._attach(self.server)
        return [
            MethodBinding(method=each.method, params_type=each.params_type, handler=each.handler)
            for each in task_bindings(self.task_methods)
        ]

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """See `ServerExtension.lifespan`: pending tasks are taken up at the start, running ones drained at the end."""
        async with self.running():
            yield

    async def intercept_tool_call(self, params: CallToolRequestParams, context: Any, call_next: Any) -> Any:
        """See `ServerExtension.intercept_tool_call`: calls of our tools that a client makes are answered here."""
        ctx = _client_call(params.name)
        if ctx is None or (params.name not in HANDLE_NAMES and await self.adopt(params.name) is None):
            return await call_next()
        if await self.server.get_tool(params.name) is None:
            return await call_next()  # hidden or not allowed: FastMCP says how
        # What FastMCP hands over lacks the members that only raincheck reads.
        whole = CallToolRequestParams.model_validate(ctx.params, by_name=False)
        return _fastmcp_result(await self._answered(whole, ctx))

    async def _answered(self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
        if params.name == "initiate_background_task":
            name: Any = (params.arguments or {}).get("operation_type")
            if isinstance(name, str) and await self.adopt(name) is not None and not await self._allowed(name):
                return tool_results.call_error(UnknownOperation(f"There is no operation {name[:80]!r}."))
        answer = await self.answer(params, ctx)
        assert answer is not None
        return answer

    async def _allowed(self, name: str) -> bool:
        return await self.server.get_tool(name) is not None

    # Living in the server.

    def _attach(self, server: FastMCP) -> None:
        if self._host is server:
            return
        if self._host is not None:
            raise ConfigurationError("This Raincheck belongs to another server already; make one for each.")
        self._host = server
        # FastMCP makes up another name at each start for a server that was given none.
        kind, _, digits = server.name.rpartition("-")
        if kind == type(server).__name__ and re.fullmatch("[0-9a-f]{4}", digits):
            self._made_up_name = server.name
            logger.warning(
                "this FastMCP server has no name, so its tasks are kept by its file's path alone: "
                'give it one, FastMCP("NAME"), where a file declares several'
            )
        server.add_middleware(_Surfaces(self))
        # FastMCP has no public way below its own layers, where alone a nested CreateTaskResult passes.
        layers: Any = getattr(getattr(server, "_mcp_server", None), "middleware", None)
        if isinstance(layers, list):
            layers.append(self._middleware)
            self._serves_core_tasks = True
        else:
            logger.warning("this version of FastMCP has no place for raincheck's limits: callers are not bounded")
        self._answer_to_the_end(getattr(server, "_mcp_server", None))
        for tool in HANDLE_TOOLS:
            self._add_tool(
                name=tool.name,
                description=tool.description,
                parameters=tool.input_schema(),
                annotations=tool_listing.annotations_of(tool),
                meta=tool.meta,
            )
        for operation in self._operations.values():
            self._register(operation)

    async def _admitted(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext, lease: Lease) -> HandlerResult:
        if (answer := await self.answer_below(ctx, lease)) is not None:
            return answer
        if ctx.method == "resources/templates/list":
            return with_template(await call_next(ctx))
        if ctx.method != "tools/call" or ctx.protocol_version != CORE_TASKS_VERSION:
            return await call_next(ctx)
        params = CallToolRequestParams.model_validate(ctx.params, by_name=False)
        if params.task is None:
            return await call_next(ctx)
        await self.core_operation(params)
        left: dict[str, Any] = {}
        token = _core_answer.set(left)
        try:
            result = await call_next(ctx)
        finally:
            _core_answer.reset(token)
        return left or result

    def _add_tool(self, **fields: Any) -> None:
        assert self._host is not None
        self._host.add_tool(AnsweredTool.made(self._answer_code, **fields))

    async def _answer_code(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Answer a call that other code of the server makes, inside a client's request."""
        request = fastmcp_request_ctx.get()
        if request is None:
            raise ToolError(f"{name} is called by clients: there is no request here whose caller the task could have.")
        # The client opted in for the tool that it named, not for this one.
        ctx = replace(request._srctx, meta=None)  # pyright: ignore[reportPrivateUsage]  FastMCP's own way to it
        params = CallToolRequestParams(name=name, arguments=dict(arguments))
        return ToolResult.from_mcp_result(CallToolResult.model_validate(await self._answered(params, ctx)))

    # See `TaskHost`.

    def in_process(self) -> AbstractAsyncContextManager[Any]:
        """See `TaskHost`."""
        from fastmcp import Client

        if self._host is None:
            raise ConfigurationError("This Raincheck has no server yet: mcp.add_extension(rc).")
        return Client(self._host)

    def _server_name(self) -> str | None:
        if self._host is None or self._host.name == self._made_up_name:
            return None
        return self._host.name

    def _register(self, operation: Operation) -> None:
        if self._host is not None:
            listed = tool_listing.listed(operation)
            self._add_tool(
                name=operation.operation_type,
                title=operation.title,
                description=listed["description"],
                parameters=listed["inputSchema"],
            )

    def _as_called(self, caller: Caller) -> AbstractContextManager[None]:
        return outside_any_request(caller)

    async def _existing_tools(self) -> Mapping[str, Callable[[Policy], Operation]]:
        if self._host is None:
            return {}
        # Of all tools: whether the caller may call one is checked again at each call.
        tools = await super(FastMCP, self._host).list_tools()
        return {
            tool.name: partial(existing_tool_operation, self._host, tool)
            for tool in tools
            if not isinstance(tool, AnsweredTool)
        }

    def _server_lifespan(self) -> AbstractAsyncContextManager[Any]:
        # FastMCP has no public way to it without serving; it counts who has entered.
        manager: Callable[[], AbstractAsyncContextManager[Any]] | None = getattr(self._host, "_lifespan_manager", None)
        return nullcontext() if manager is None else manager()

    def listed(self, tools: Sequence[Any], ctx: ServerRequestContext[Any, Any] | None) -> list[Any]:
        """FastMCP's listing with our tools' exact schemas, and no promise that a ticket would break."""
        shown: list[Any] = []
        hidden = self.hidden(ctx)
        for tool in tools:
            changes: dict[str, Any] = {}
            operation = self._operations.get(tool.name)
            if tool.name in hidden:
                continue
            if operation is not None and tool.name in self._adopted:
                changes["description"] = tool_listing.described(operation)
            if operation is not None and tool.output_schema is not None:
                changes["output_schema"] = tool_listing.promised_schema(operation)
            if operation is not None and self._serves_core_tasks:
                changes["execution"] = ToolExecution.model_validate({"taskSupport": task_support(operation)})
            shown.append(tool.model_copy(update=changes) if changes else tool)
        return shown


class _Surfaces(Middleware):
    """What raincheck adds to other answers than those of tool calls."""

    def __init__(self, rc: Raincheck) -> None:
        self._rc = rc

    async def on_initialize(self, context: Any, call_next: Any) -> Any:
        result = await call_next(context)
        if result is not None and result.protocol_version == CORE_TASKS_VERSION and self._rc._serves_core_tasks:  # pyright: ignore[reportPrivateUsage]
            result.capabilities.tasks = ServerTasksCapability.model_validate(tool_listing.CORE_TASKS_CAPABILITY)
        return result

    async def on_list_tools(self, context: Any, call_next: Any) -> Any:
        await self._rc.adopt_all()
        tools = await call_next(context)
        return self._rc.listed(tools, _sdk_request())


def _sdk_request() -> ServerRequestContext[Any, Any] | None:
    request = fastmcp_request_ctx.get()
    return None if request is None else request._srctx  # pyright: ignore[reportPrivateUsage]


def _client_call(name: str) -> ServerRequestContext[Any, Any] | None:
    """The request, if it is a client's call of this very tool: another tool may be calling it."""
    ctx = _sdk_request()
    if ctx is None or ctx.method != "tools/call" or (ctx.params or {}).get("name") != name:
        return None
    return ctx


def _fastmcp_result(answer: dict[str, Any]) -> Any:
    """The answer as FastMCP's middleware expects one: a tool result where it is one."""
    kind = answer.get("resultType", "complete")
    if kind == "input_required":
        return InputRequiredToolResult(InputRequiredResult.model_validate(answer))
    if (left := _core_answer.get()) is not None and "task" in answer:
        left.update(answer)
        return ToolResult(content=[])
    if kind != "complete":
        return _Handle.model_validate(answer)
    return ToolResult.from_mcp_result(CallToolResult.model_validate(answer))
