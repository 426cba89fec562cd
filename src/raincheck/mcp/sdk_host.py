"""`Raincheck`: the extension that makes an `MCPServer`'s tools background-capable, in two lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Never, TypeVar

from mcp import Client
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, ToolBinding
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolRequestParams, Implementation

from raincheck._version import __version__
from raincheck.errors import ConfigurationError
from raincheck.mcp import tool_listing
from raincheck.mcp.admission.admission import Lease
from raincheck.mcp.host import TaskHost
from raincheck.mcp.surfaces.handle_definitions import HANDLE_TOOLS
from raincheck.mcp.surfaces.negotiation import CORE_TASKS_VERSION, TASKS_EXTENSION
from raincheck.mcp.surfaces.result_resources import with_template
from raincheck.mcp.surfaces.task_methods import task_bindings
from raincheck.mcp.surfaces.typed_tools import tool_function
from raincheck.operations.operation import Operation, Policy

_L = TypeVar("_L")


class Raincheck(TaskHost, Extension):
    """Background tasks for an `MCPServer` of the official SDK.

    ::

        rc = Raincheck(tools="slow_*")
        mcp = MCPServer("reports", extensions=[rc], lifespan=rc.lifespan)

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
    _server: MCPServer[Any] | None = None

    @property
    def _server_ref(self) -> Never:
        # What FastMCP looks for first in an extension of its own.
        raise ConfigurationError(
            "this Raincheck is for the SDK's MCPServer; for a FastMCP server import it by: "
            "from raincheck.fastmcp import Raincheck"
        )

    # Living in a server.

    @asynccontextmanager
    async def lifespan(self, server: MCPServer[Any]) -> AsyncGenerator[dict[str, Any]]:
        """A lifespan for the server: what was pending is taken up at its start, what runs is drained at its end."""
        self._attach(server)
        async with self.running():
            yield {}

    def around(
        self, lifespan: Callable[[MCPServer[_L]], AbstractAsyncContextManager[_L]]
    ) -> Callable[[MCPServer[_L]], AbstractAsyncContextManager[_L]]:
        """A lifespan around one of yours: `lifespan=rc.around(my_lifespan)`."""

        @asynccontextmanager
        async def both(server: MCPServer[_L]) -> AsyncGenerator[_L]:
            async with lifespan(server) as state, self.lifespan(server):
                yield state

        return both

    def tools(self) -> Sequence[ToolBinding]:
        """See `Extension.tools`."""
        if (server := tool_listing.constructing_server()) is not None:
            self._attach(server)
        bindings = [
            self._binding(tool.name, None, tool.description, tool.input_schema(), tool_listing.annotations_of(tool))
            for tool in HANDLE_TOOLS
        ]
        return bindings if server is not None else [*bindings, *map(self._operation_binding, self._operations.values())]

    def methods(self) -> Sequence[MethodBinding]:
        """See `Extension.methods`: those of the tasks extension, and of the core tasks of 2025-11-25."""
        return task_bindings(self.task_methods)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """See `Extension.intercept_tool_call`: our tools are answered here, all others are passed on."""
        result = await self.answer(params, ctx)
        return await call_next(ctx) if result is None else result

    async def _admitted(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext, lease: Lease) -> HandlerResult:
        await self.surfaces()
        if ctx.method == "tools/call":
            # The SDK has no shape for a nested CreateTaskResult of 2025-11-25, so such a call is answered up here.
            if ctx.protocol_version == CORE_TASKS_VERSION and (ctx.params or {}).get("task") is not None:
                params = CallToolRequestParams.model_validate(ctx.params, by_name=False)
                await self.core_operation(params)
                return await self.answer(params, ctx)
            return await call_next(ctx)
        if (answer := await self.answer_below(ctx, lease)) is not None:
            return answer
        result = await call_next(ctx)
        if ctx.method == "resources/templates/list":
            return with_template(result)
        if ctx.method == "tools/list" and isinstance(result, dict):
            return {**result, "tools": await self._listing(result["tools"], ctx)}
        if ctx.method == "initialize" and isinstance(result, dict):
            return tool_listing.with_core_tasks(result)
        return result

    async def _listing(
        self, tools: Sequence[Mapping[str, Any]], ctx: ServerRequestContext[Any, Any]
    ) -> list[dict[str, Any]]:
        """The SDK's listing with our tools' exact schemas, and no promise that a ticket would break."""
        await self.adopt_all()
        exact = tool_listing.listed_handles() | {
            name: tool_listing.listed(operation)
            for name, operation in self._operations.items()
            if name not in self._adopted
        }
        promised = {name: tool_listing.promised_schema(self._operations[name]) for name in self._adopted}
        exact |= {
            name: {"description": tool_listing.described(self._operations[name])}
            | ({} if schema is None else {"outputSchema": schema})
            for name, schema in promised.items()
        }
        unsure = {name for name, schema in promised.items() if schema is None}
        hidden = self.hidden(ctx)
        listing = [
            {**tool, **exact.get(tool["name"], {})}
            for tool in tool_listing.without_output_schema(tools, unsure)
            if tool["name"] not in hidden
        ]
        return (
            tool_listing.with_task_support(listing, self._operations)
            if ctx.protocol_version == CORE_TASKS_VERSION
            else listing
        )

    def _attach(self, server: MCPServer[Any]) -> None:
        if self._server is server:
            return
        if self._server is not None:
            raise ConfigurationError("This Raincheck belongs to another server already; make one for each.")
        self._server = server
        server.middleware.append(self._middleware)
        self._answer_to_the_end(server._lowlevel_server)  # pyright: ignore[reportPrivateUsage]  it has no public name
        for operation in self._operations.values():
            self._register(operation)

    # See `TaskHost`.

    def _server_name(self) -> str | None:
        return None if self._server is None else self._server.name

    def in_process(self) -> AbstractAsyncContextManager[Any]:
        """See `TaskHost`."""
        if self._server is None:
            raise ConfigurationError("This Raincheck has no server yet: MCPServer(…, extensions=[rc]).")
        # Under the SDK's own name it would be taken for an impatient client.
        return Client(self._server, cache=None, client_info=Implementation(name="raincheck", version=__version__))

    def _register(self, operation: Operation) -> None:
        if self._server is not None:
            binding = self._operation_binding(operation)
            self._server.add_tool(binding.fn, **binding.kwargs)

    async def _existing_tools(self) -> Mapping[str, Callable[[Policy], Operation]]:
        server = self._server
        if server is None:
            return {}
        from raincheck.mcp.adopted_tools import existing_tool_operation

        return {tool.name: partial(existing_tool_operation, server, tool) for tool in await server.list_tools()}

    def _server_lifespan(self) -> AbstractAsyncContextManager[Any]:
        own = None if self._server is None else self._server.settings.lifespan
        return nullcontext() if self._server is None or own is None else own(self._server)

    def _operation_binding(self, operation: Operation) -> ToolBinding:
        return self._binding(
            operation.operation_type,
            operation.title,
            tool_listing.described(operation),
            operation.executor.parameters_schema,
            None,
        )

    def _binding(
        self, name: str, title: str | None, description: str, schema: Mapping[str, Any], annotations: Any
    ) -> ToolBinding:
        async def answer(arguments: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
            result = await self.answer(CallToolRequestParams(name=name, arguments=dict(arguments)), ctx)
            assert result is not None
            return result

        kwargs = {
            "name": name,
            "title": title,
            "description": description,
            "annotations": annotations,
            "structured_output": False,
        }
        return ToolBinding(fn=tool_function(schema, answer), kwargs=kwargs)
