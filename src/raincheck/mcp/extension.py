"""`Raincheck`: the extension that makes an `MCPServer`'s tools background-capable, in two lines."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, ToolBinding
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, CallToolRequestParams

from raincheck.compose import default_policy, make_store
from raincheck.config import Settings, file_name
from raincheck.errors import ConfigurationError
from raincheck.mcp import hosting
from raincheck.mcp.existing_tools import existing_tool_operation
from raincheck.mcp.handle_tools import HANDLE_TOOLS, HandleTools, answer_errors
from raincheck.mcp.protocol_errors import KeepsProtocolErrors
from raincheck.mcp.scopes import ANONYMOUS, scope_of
from raincheck.mcp.surfaces import CORE_TASKS_VERSION, TASKS_EXTENSION
from raincheck.mcp.task_methods import TaskMethods, task_bindings
from raincheck.mcp.task_stream import listen
from raincheck.mcp.typed_tools import TypedTools, tool_function
from raincheck.operations.operation import LostPolicy, Mode, Operation, Policy, WithoutTasks
from raincheck.registry import Registry
from raincheck.service import Service, ServiceSettings
from raincheck.store import TaskStore

__all__ = ["Raincheck"]

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")
_L = TypeVar("_L")

_HANDLE_NAMES = frozenset(tool.name for tool in HANDLE_TOOLS)


class Raincheck(Extension):
    """Background tasks for an `MCPServer` of the official SDK.

    ::

        rc = Raincheck(tools="slow_*")
        mcp = MCPServer("reports", extensions=[rc], lifespan=rc.lifespan)

    Args:
        tools: Name patterns (`fnmatch`) of the server's own `@mcp.tool()` functions that become operations, unchanged.
        store: Where tasks are kept: a path (SQLite), a store, or None for the settings' one.
        policy: How those tools are run and answered.
        settings: All settings at once (`raincheck.load_settings`); their operations are declared by `serve` only.

    Raises:
        ConfigurationError: A setting or a declaration is wrong.
    """

    identifier = TASKS_EXTENSION

    def __init__(
        self,
        *,
        tools: str | Sequence[str] = (),
        store: TaskStore | str | os.PathLike[str] | None = None,
        policy: Policy | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._settings = _with_store_path(settings or Settings(), store)
        self._patterns = (tools,) if isinstance(tools, str) else tuple(tools)
        self._default_policy = policy or default_policy(self._settings)
        self._given_store = store if store is not None and not isinstance(store, str | os.PathLike) else None
        self._operations: dict[str, Operation] = {}
        self._server: MCPServer[Any] | None = None
        self._service: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Lock | None = None
        self._holders = 0
        self._handles: HandleTools | None = None
        self._methods: TaskMethods | None = None
        self._typed: TypedTools | None = None
        self._adopted: set[str] = set()

    # Declaring operations.

    @overload
    def operation(self, function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
    @overload
    def operation(
        self,
        /,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        isolation: Any = "none",
        ask_first: Mapping[str, Mapping[str, Any]] | None = None,
        mode: Mode | None = None,
        inline_wait_seconds: float | None = None,
        without_tasks: WithoutTasks | None = None,
        timeout_seconds: float | None = None,
        default_max_wait_seconds: float | None = None,
        ttl_seconds: float | None = None,
        on_worker_lost: LostPolicy | None = None,
        retry_attempts: int | None = None,
    ) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
    def operation(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        isolation: Any = "none",
        ask_first: Mapping[str, Mapping[str, Any]] | None = None,
        **policy: Any,
    ) -> Any:
        """Declare a function as an operation; the function itself stays as it is.

        Sync or async; a parameter annotated `TaskContext` is injected. Every member of `Policy` may be given by name;
        the others come from the settings. `isolation="process"` runs each task in a process of its own; `ask_first` are
        questions to the user before the work, by name (`Operation.ask_first`).

        Raises:
            ConfigurationError: The name is taken, or the signature cannot be a schema.
        """
        from raincheck.operations.python import python_operation

        def declare(fn: Callable[..., Any]) -> Callable[..., Any]:
            given = {key: value for key, value in policy.items() if value is not None}
            operation = python_operation(
                fn,
                operation_type=name,
                title=title,
                description=description,
                policy=checked_policy(self._default_policy, given),
                isolation=isolation,
            )
            self.add(replace(operation, ask_first=ask_first) if ask_first else operation)
            return fn

        return declare if function is None else declare(function)

    def add(self, operation: Operation) -> None:
        """Add an operation of any kind.

        Raises:
            ConfigurationError: The name is taken.
        """
        name = operation.operation_type
        if name in self._operations or name in _HANDLE_NAMES:
            raise ConfigurationError(f"There is already an operation or a handle tool named {name!r}.")
        operation = self._operations[name] = replace(operation, executor=KeepsProtocolErrors(operation.executor))
        if self._server is not None:
            self._register(self._server, operation)

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The operations by name; existing tools are among them once the server has listed or called them."""
        return dict(self._operations)

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

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Registry]:
        """Run the service while the block runs; blocks may overlap, the last one to end stops it.

        Raises:
            StoreError: The store cannot be opened.
        """
        service = await self._started()
        self._holders += 1
        try:
            yield service.registry
        finally:
            self._holders -= 1
            if self._holders == 0:
                self._service = None
                await service.stop()

    def tools(self) -> Sequence[ToolBinding]:
        """See `Extension.tools`."""
        if (server := hosting.constructing_server()) is not None:
            self._attach(server)
        bindings = [
            self._binding(tool.name, tool.title, tool.description, tool.input_schema(), hosting.annotations_of(tool))
            for tool in HANDLE_TOOLS
        ]
        return bindings if server is not None else [*bindings, *map(self._operation_binding, self._operations.values())]

    def methods(self) -> Sequence[MethodBinding]:
        """See `Extension.methods`: those of the tasks extension, and of the core tasks of 2025-11-25."""
        return task_bindings(self._task_methods)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """See `Extension.intercept_tool_call`: our tools are answered here, all others are passed on."""
        name = params.name
        if name in _HANDLE_NAMES:
            if self._handles is None or self._loop is not asyncio.get_running_loop():
                await self._started()
            assert self._handles is not None
            return await self._handles.call(name, params.arguments or {}, scope_of(ctx))
        operation = self._operations.get(name) or await self._adopt(name)
        if operation is None:
            return await call_next(ctx)
        return await self._call(operation, params, ctx)

    async def _call(
        self, operation: Operation, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any]
    ) -> dict[str, Any]:
        await self._started()
        assert self._typed is not None
        return await answer_errors(self._typed.call(operation, params, ctx))

    async def _task_methods(self) -> TaskMethods:
        await self._started()
        assert self._methods is not None
        return self._methods

    async def _middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if self._service is None:
            await self._started()
        if ctx.method == "tools/call":
            # The SDK has no shape for a nested CreateTaskResult of 2025-11-25, so such a call is answered up here.
            if ctx.protocol_version == CORE_TASKS_VERSION and (ctx.params or {}).get("task") is not None:
                return await self._call_as_core_task(ctx)
            return await call_next(ctx)
        if ctx.method == "subscriptions/listen" and "taskIds" in ((ctx.params or {}).get("notifications") or {}):
            return await listen(ctx, await self._task_methods(), scope_of(ctx))
        result = await call_next(ctx)
        if ctx.method == "tools/list" and isinstance(result, dict):
            return {**result, "tools": await self._listing(result["tools"], ctx)}
        if ctx.method == "initialize" and isinstance(result, dict):
            return hosting.with_core_tasks(result)
        return result

    async def _call_as_core_task(self, ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
        params = CallToolRequestParams.model_validate(ctx.params, by_name=False)
        operation = self._operations.get(params.name) or await self._adopt(params.name)
        if operation is None:
            raise MCPError(METHOD_NOT_FOUND, f"Tool {params.name} does not support task-augmented execution")
        return await self._call(operation, params, ctx)

    async def _listing(
        self, tools: Sequence[Mapping[str, Any]], ctx: ServerRequestContext[Any, Any]
    ) -> list[dict[str, Any]]:
        """The SDK's listing with our tools' exact schemas, and no promise that a ticket would break."""
        await self._adopt_all()
        exact = hosting.listed_handles(self._operations) | {
            name: hosting.listed(operation) for name, operation in self._operations.items() if name not in self._adopted
        }
        tickets = {name for name in self._adopted if hosting.may_give_ticket(self._operations[name])}
        hidden = {"list_background_tasks"} if scope_of(ctx) == ANONYMOUS else set[str]()
        listing = [
            {**tool, **exact.get(tool["name"], {})}
            for tool in hosting.without_output_schema(tools, tickets)
            if tool["name"] not in hidden
        ]
        return (
            hosting.with_task_support(listing, self._operations)
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
        for operation in self._operations.values():
            self._register(server, operation)

    def _register(self, server: MCPServer[Any], operation: Operation) -> None:
        binding = self._operation_binding(operation)
        server.add_tool(binding.fn, **binding.kwargs)

    def _operation_binding(self, operation: Operation) -> ToolBinding:
        return self._binding(
            operation.operation_type,
            operation.title,
            operation.description,
            operation.executor.parameters_schema,
            None,
        )

    def _binding(
        self, name: str, title: str | None, description: str, schema: Mapping[str, Any], annotations: Any
    ) -> ToolBinding:
        async def answer(arguments: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
            params = CallToolRequestParams(name=name, arguments=dict(arguments))
            result = await self.intercept_tool_call(params, ctx, _nothing_further)
            assert isinstance(result, dict)
            return result

        kwargs = {
            "name": name,
            "title": title,
            "description": description,
            "annotations": annotations,
            "structured_output": False,
        }
        return ToolBinding(fn=tool_function(schema, answer), kwargs=kwargs)

    async def _adopt(self, name: str) -> Operation | None:
        """The operation for an existing tool that a pattern names, None for any other tool."""
        server = self._server
        if server is None or name in _HANDLE_NAMES or not any(fnmatchcase(name, each) for each in self._patterns):
            return None
        tool = next((tool for tool in await server.list_tools() if tool.name == name), None)
        if tool is None:
            return None
        operation = self._operations.setdefault(name, existing_tool_operation(server, tool, self._default_policy))
        self._adopted.add(name)
        return operation

    async def _adopt_all(self) -> None:
        if self._server is not None and self._patterns:
            for tool in await self._server.list_tools():
                if tool.name not in self._operations:
                    await self._adopt(tool.name)

    async def _started(self) -> Service:
        loop = asyncio.get_running_loop()
        if self._service is not None and self._loop is loop:
            return self._service
        if self._loop is not loop:
            # A service that was started lazily ended with its event loop.
            self._loop, self._service, self._starting, self._holders = loop, None, asyncio.Lock(), 0
        assert self._starting is not None
        async with self._starting:
            if self._service is None:
                await self._adopt_all()
                service = self._new_service()
                await service.start()
                self._service = service
                self._handles = HandleTools(service.registry, self._settings.polling)
                self._methods = TaskMethods(service.registry, self._handles)
                self._typed = TypedTools(service.registry, self._handles, self._methods)
        return self._service

    def _new_service(self) -> Service:
        execution = self._settings.execution
        return Service(
            self._given_store or make_store(self._settings_of_server()),
            self._operations.get,
            self._names,
            ServiceSettings(
                max_concurrency=execution.max_concurrency,
                lease_seconds=execution.lease_seconds,
                drain_seconds=execution.drain_seconds,
                max_parameters_bytes=execution.max_parameters_bytes,
            ),
        )

    def _settings_of_server(self) -> Settings:
        """Where nothing says where tasks are kept, each server has a file of its own, by its name."""
        settings, server = self._settings, self._server
        unsaid = settings.source == Settings().source and settings.state.provider == "sqlite" and not settings.state.url
        if server is None or not unsaid or settings.state_folder is None:
            return settings
        path = settings.state_folder / f"{file_name(server.name)}.db"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _with_store_path(settings, path)

    def _names(self) -> Collection[str]:
        return self._operations.keys()


async def _nothing_further(ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
    raise AssertionError("a tool of ours is answered by its interceptor")


def _with_store_path(settings: Settings, store: TaskStore | str | os.PathLike[str] | None) -> Settings:
    if not isinstance(store, str | os.PathLike):
        return settings
    state = settings.state.model_copy(update={"provider": "sqlite", "url": str(Path(store).absolute())})
    return settings.model_copy(update={"state": state})


def checked_policy(base: Policy, given: Mapping[str, Any]) -> Policy:
    """`base` with the given members.

    Raises:
        ConfigurationError: There is no such member.
    """
    try:
        return replace(base, **given)
    except TypeError:
        unknown = ", ".join(sorted(set(given) - set(Policy.__dataclass_fields__)))
        allowed = ", ".join(Policy.__dataclass_fields__)
        raise ConfigurationError(f"An operation has no setting {unknown}. Allowed: {allowed}.") from None
