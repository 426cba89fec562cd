"""The task host: the base of the SDK's and FastMCP's hosts; answers calls and runs one service.

A host (`raincheck.mcp.sdk_host` for the official SDK's `MCPServer`, `raincheck.mcp.fastmcp.host` for FastMCP) adds how
its server lists tools and brings calls here.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import Context
from functools import partial
from typing import Any, Never

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, CallToolRequestParams
from starlette.types import ASGIApp

from raincheck.callbacks.tokens import CompletionTokens
from raincheck.composition.adapters import (
    encrypting,
    make_blobs,
    make_engine,
    make_store,
    place_of,
    service_settings,
)
from raincheck.composition.local_worker import local_worker
from raincheck.config.program import calling_file
from raincheck.config.settings import Settings
from raincheck.domain.redaction import redacting, secret_texts
from raincheck.engines.hand_over import hand_over_engine
from raincheck.errors import ConfigurationError
from raincheck.mcp.admission.admission import Admission, Lease
from raincheck.mcp.auth.scopes import ANONYMOUS, caller_of, scope_of
from raincheck.mcp.declared_operations import DeclaredOperations
from raincheck.mcp.server.body_budget import BodyBudget
from raincheck.mcp.server.callback_endpoint import with_callbacks
from raincheck.mcp.server.streams import AtEnd, answer_to_the_end
from raincheck.mcp.service_surfaces import ServiceSurfaces
from raincheck.mcp.settings_overrides import (
    check_given,
    in_memory,
    with_results_folder,
    with_store_path,
    with_webhooks,
)
from raincheck.mcp.surfaces.handle_definitions import HANDLE_NAMES, hidden_handle_tools
from raincheck.mcp.surfaces.negotiation import Surface, surface_of
from raincheck.mcp.surfaces.result_resources import is_result_read, read
from raincheck.mcp.surfaces.task_methods import TaskMethods
from raincheck.mcp.surfaces.task_notifications import listen
from raincheck.mcp.wire.protocol_errors import rpc_errors
from raincheck.mcp.wire.tool_results import answer_errors
from raincheck.operations.callers import may_call
from raincheck.operations.catalog import OperationCatalog, WithoutWebhooks
from raincheck.operations.operation import Operation, Policy
from raincheck.ports.blob_store import BlobStore
from raincheck.ports.engine import EngineFactory
from raincheck.ports.task_store import TaskStore
from raincheck.runtime.service import Service
from raincheck.tasks.registry import Registry

logger = logging.getLogger(__name__)


class TaskHost(DeclaredOperations):
    """Operations and the service that runs them, for one server.

    Args:
        tools: Name patterns (`fnmatch`) of the server's own tool functions that become operations, unchanged. They
            have a deadline and no timeout, unless `policy` says one.
        store: Where tasks are kept: a path (SQLite), a store, or None for the settings' one.
        results: Where large results are kept: a folder, a `raincheck.ports.blob_store.BlobStore`, or None as the
            settings say.
        policy: How those tools are run and answered.
        settings: All settings at once (`raincheck.load_settings`); their operations are declared by `serve` only.
        webhooks: Keys of [webhooks], over those of the settings.
        outlive_client: `MODULE:RAINCHECK`, by which another process imports this very object: then tasks run in a local
            worker, and go on when the client ends the server. Needs the store SQLite by path, and the engine `local`.

    Raises:
        ConfigurationError: A setting or a declaration is wrong.
    """

    def __init__(
        self,
        *,
        tools: str | Sequence[str] = (),
        store: TaskStore | str | os.PathLike[str] | None = None,
        results: BlobStore | str | os.PathLike[str] | None = None,
        policy: Policy | None = None,
        settings: Settings | None = None,
        webhooks: Mapping[str, Any] | None = None,
        outlive_client: str | None = None,
        **unknown: Never,
    ) -> None:
        check_given(
            unknown,
            tools=tools,
            store=store,
            results=results,
            policy=policy,
            settings=settings,
            webhooks=webhooks,
            outlive_client=outlive_client,
        )
        settings = with_results_folder(with_store_path(settings or Settings(), store), results)
        self._settings = with_webhooks(settings, webhooks)
        super().__init__((tools,) if isinstance(tools, str) else tuple(tools), policy, self._settings)
        self._program_file = calling_file()
        self._given_blobs: BlobStore | None = None if isinstance(results, str | os.PathLike) else results
        self._admission = Admission(self._settings)
        self._given_store = store if store is not None and not isinstance(store, str | os.PathLike) else None
        self._outlive_client = outlive_client
        if outlive_client is not None and (self._given_store is not None or not self._settings.outlives(stdio=True)):
            raise ConfigurationError(
                "Raincheck(outlive_client=…) needs the store sqlite by its path, and the engine local: "
                "a local worker shares its file"
            )
        self.engine: EngineFactory | None = None
        self._catalog: OperationCatalog = self._operations
        self._surfaces: ServiceSurfaces | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Lock | None = None
        self._holders = 0
        self.end_held_calls: AtEnd | None = None

    # What a host says of its server.

    def _server_name(self) -> str | None:
        """The server's name, None before there is one."""
        raise NotImplementedError

    def in_process(self) -> AbstractAsyncContextManager[Any]:
        """A client of the server in this process, which starts it and ends it.

        Raises:
            ConfigurationError: There is no server.
        """
        raise NotImplementedError

    def _server_lifespan(self) -> AbstractAsyncContextManager[Any]:
        """What the server sets up for its tools while it serves."""
        raise NotImplementedError

    async def _admitted(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext, lease: Lease) -> HandlerResult:
        """The answer of a request that its scope may have under way."""
        raise NotImplementedError

    async def _middleware(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """The layer of the SDK's server in which every request is admitted."""
        return await self._admission.request(ctx, lambda lease: self._admitted(ctx, call_next, lease))

    def _answer_to_the_end(self, lowlevel: Any) -> None:
        """Have calls under way answered when a connection's input ends, where the SDK's server lets us."""
        if callable(getattr(lowlevel, "run", None)):
            seconds = self._settings.execution.drain_seconds
            answer_to_the_end(lowlevel, drain_seconds=seconds, at_end=lambda: self.end_held_calls)

    # Answering.

    async def answer(self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any]) -> dict[str, Any] | None:
        """The result of a call of a handle tool or an operation, None where the tool is neither.

        Raises:
            MCPError: The operation ended in a JSON-RPC error, or the client's surface and the policy don't fit; for a
                core task (2025-11-25) also where the call is wrong or refused.
        """
        if params.name in HANDLE_NAMES:
            return await self.answer_handle(params.name, params.arguments or {}, ctx)
        operation = await self.adopt(params.name)
        if operation is None:
            return None
        typed_tools = (await self.surfaces()).typed_tools
        make = partial(typed_tools.call, operation, params, ctx)
        call = self._admission.inline(ctx, make) if operation.policy.mode == "inline" else make()
        # A client of the core tasks waits for a task and has no use for a tool's result; everywhere else the model
        # reads why the call was refused, and when to try again.
        with redacting(secret_texts(params.arguments or {}, operation.secret_parameters)):
            return await (rpc_errors(call) if surface_of(params, ctx) is Surface.CORE else answer_errors(call))

    async def answer_handle(
        self, name: str, arguments: Mapping[str, Any], ctx: ServerRequestContext[Any, Any]
    ) -> dict[str, Any]:
        """The result of a call of a handle tool."""
        return await (await self.surfaces()).handle_tools.call(name, arguments, ctx)

    async def core_operation(self, params: CallToolRequestParams) -> Operation:
        """The operation that a core task (2025-11-25) is asked for.

        Raises:
            MCPError: The tool is no operation (-32601).
        """
        operation = await self.adopt(params.name)
        if operation is None:
            raise MCPError(METHOD_NOT_FOUND, f"Tool {params.name} does not support task-augmented execution")
        return operation

    async def task_methods(self) -> TaskMethods:
        """The task methods of the started service."""
        return (await self.surfaces()).task_methods

    async def answer_below(self, ctx: ServerRequestContext[Any, Any], lease: Lease) -> dict[str, Any] | None:
        """The answer of a request about tasks that the server has no handler for: a `subscriptions/listen` with task
        ids, a `resources/read` of a task's result; None for any other request."""
        if ctx.method == "subscriptions/listen" and "taskIds" in ((ctx.params or {}).get("notifications") or {}):
            surfaces = await self.surfaces()
            return await listen(ctx, surfaces.service.registry, surfaces.handles, lease.reserve)
        if is_result_read(ctx):
            service = await self.started()
            return await rpc_errors(read(ctx, service.registry, service.results, lease))
        return None

    # The service.

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Registry]:
        """Run the service while the block runs; blocks may overlap, the last one to end stops it.

        Raises:
            StoreError: The store cannot be opened.
        """
        surfaces = await self._start()
        self._holders += 1
        try:
            yield surfaces.service.registry
        finally:
            self._holders -= 1
            if self._holders == 0:
                self._surfaces = None
                await surfaces.elicitation.close()
                await surfaces.service.stop()

    @contextmanager
    def kept_in(self, store: TaskStore) -> Generator[None]:
        """Keep tasks there while the block runs, and nothing elsewhere: for tests (`raincheck.testing`).

        Raises:
            ConfigurationError: It is running already, for another block or a server.
        """
        if self._surfaces is not None and self._loop is not None and self._loop.is_running():
            raise ConfigurationError("This Raincheck is running already: use that client, or end its block first.")
        before = self._settings, self._given_store, self._given_blobs
        self._settings, self._given_store, self._given_blobs = in_memory(self._settings), store, None
        self._catalog = WithoutWebhooks(self._operations)
        self._loop = self._surfaces = None
        try:
            yield
        finally:
            self._settings, self._given_store, self._given_blobs = before
            self._catalog = self._operations
            self._loop = self._surfaces = None

    def with_callbacks(self, app: ASGIApp) -> ASGIApp:
        """Your server's ASGI application, and beside it `POST /callbacks/{token}`, by which others settle tasks.

        ::

            app = rc.with_callbacks(mcp.streamable_http_app())
        """

        async def callbacks() -> CompletionTokens:
            return (await self.started()).callbacks

        settings = self._settings
        budget = BodyBudget(settings.server.max_body_bytes_under_way)
        return with_callbacks(app, callbacks, max_result_bytes=settings.execution.max_result_bytes, budget=budget)

    def place(self) -> tuple[str, str]:
        """The store and the engine, as a person may be told of them."""
        store, engine = place_of(self.settings_of_server())
        return store if self._given_store is None else type(self._given_store).__name__, engine

    @asynccontextmanager
    async def working(self, settings: Settings, engine: EngineFactory) -> AsyncGenerator[Service]:
        """Only run tasks while the block runs, as `settings` say, in the server's own lifespan: no client is served.

        Raises:
            ConfigurationError: Other processes cannot reach the tasks of its store.
            StoreError: The store cannot be opened.
        """
        if not self.store_is_shared:
            raise ConfigurationError(
                "the tasks of a store in memory exist inside the server only: a worker needs another"
            )
        self._settings, self.engine = settings, engine
        async with self._server_lifespan(), self.running():
            yield await self.started()

    async def started(self) -> Service:
        """The service, for a request that needs it; the first one starts it.

        Raises:
            StoreError: The store cannot be opened.
        """
        return (await self.surfaces()).service

    async def surfaces(self) -> ServiceSurfaces:
        """The surfaces of the service, started as by `started`.

        Raises:
            StoreError: The store cannot be opened.
        """
        if self._surfaces is not None and self._loop is asyncio.get_running_loop():
            return self._surfaces
        # The service's loops outlive that request: they must not run with its caller's identity.
        return await asyncio.create_task(self._start(), context=Context())

    async def _start(self) -> ServiceSurfaces:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A service that was started lazily ended with its event loop.
            self._loop, self._surfaces, self._starting, self._holders = loop, None, asyncio.Lock(), 0
        assert self._starting is not None
        async with self._starting:
            if self._surfaces is None:
                await self.adopt_all()
                service = self._new_service()
                await service.start()
                self._surfaces = ServiceSurfaces.of(service, self._settings)
            return self._surfaces

    def hidden(self, ctx: ServerRequestContext[Any, Any] | None) -> frozenset[str]:
        """What this request's listing does not show: handle tools, and operations that its caller may not call."""
        anonymous = ctx is not None and scope_of(ctx) == ANONYMOUS
        hidden = hidden_handle_tools(self._settings.server.handle_tools, anonymous=anonymous)
        if ctx is None:
            return hidden
        caller = caller_of(ctx)
        return hidden | {name for name, each in self._operations.items() if not may_call(each.policy, caller)}

    def _new_service(self) -> Service:
        settings = self.settings_of_server()
        store = self.new_store(settings)
        return Service(
            store,
            self._catalog,
            service_settings(settings),
            engine=self._engine_of(settings),
            blobs=self.new_blobs(settings, store),
        )

    def _engine_of(self, settings: Settings) -> EngineFactory:
        if self.engine is not None:
            return self.engine
        if settings.outlives(stdio=True) and self._given_store is None:
            if self._outlive_client is not None:
                return hand_over_engine(local_worker(settings, self._outlive_client))
            logger.info("tasks run in this process, and end with it: Raincheck(outlive_client=…) has them outlive it")
        return make_engine(settings)

    def new_store(self, settings: Settings) -> TaskStore:
        """The store of its tasks, not yet opened, sealing where it has to: the given one, or the settings'."""
        return make_store(settings) if self._given_store is None else encrypting(settings, self._given_store)

    def new_blobs(self, settings: Settings, store: TaskStore) -> BlobStore | None:
        """Where its large results are kept, not yet opened."""
        return self._given_blobs or make_blobs(settings, store, given=self.store_is_given)

    @property
    def store_is_given(self) -> bool:
        """Whether it was given a store, so that the settings say nothing of it."""
        return self._given_store is not None

    @property
    def store_is_shared(self) -> bool:
        """Whether other processes can reach its tasks."""
        if self._given_store is not None:
            return self._given_store.capabilities.shared
        return self._settings.state.provider != "memory"

    def settings_of_server(self) -> Settings:
        """All settings; where they don't say where tasks are kept, each server of a program has a file of its own."""
        if self._settings.program_file is not None:
            return self._settings
        own = {"program_file": self._program_file, "server_name": self._server_name() or ""}
        return self._settings.model_copy(update=own)
