"""`raincheck serve`: a server without code, on stdio, streamable HTTP or SSE."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from mcp.server.auth.provider import TokenVerifier
from mcp.server.mcpserver import MCPServer

from raincheck.callbacks.tokens import CompletionTokens
from raincheck.composition.local_worker import local_worker
from raincheck.composition.operations import make_operations
from raincheck.config.settings import Settings
from raincheck.domain.logs import configure_logs
from raincheck.engines.hand_over import hand_over_engine
from raincheck.errors import StoreError
from raincheck.mcp.auth.verifiers import make_verifier, sdk_settings
from raincheck.mcp.sdk_host import Raincheck
from raincheck.mcp.server.allowed_hosts import known_names
from raincheck.mcp.server.body_budget import BodyBudget
from raincheck.mcp.server.callback_endpoint import with_callbacks
from raincheck.mcp.server.handle_fast_path import shorten
from raincheck.mcp.server.http_app import MCP_PATH, UNCHECKED, http_app, with_health
from raincheck.mcp.server.log_throttle import throttle_logs
from raincheck.mcp.server.middleware import answered_at_the_stop, checked_heads, ending_with_its_token
from raincheck.mcp.server.stdio import Wire, run_on, take_wire
from raincheck.operations.operation import Operation
from raincheck.runtime.health import Health
from raincheck.runtime.listening import listen, raise_descriptor_limit
from raincheck.runtime.service import Service
from raincheck.runtime.signals import stop_requested

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "A slow call may answer with a ticket: a task_ref. If your host shows the call as a background task, go on and "
    "wait for its notification; else call resolve_task_status, which waits for the result. Never start the same work "
    "again because it takes long."
)
WITHOUT_TICKETS = (
    "A slow call may show as a background task: go on and wait for its notification, and do not repeat it."
)


def make_server(
    settings: Settings,
    operations: Mapping[str, Operation] | None = None,
    *,
    verifier: TokenVerifier | None = None,
    address: str = "",
) -> tuple[MCPServer[Any], Raincheck]:
    """The server that the settings describe, not yet running.

    Args:
        operations: In place of those that the settings declare.
        verifier: Checks the callers' tokens (`make_verifier`).
        address: Where the server listens; needed with a verifier.

    Raises:
        ConfigurationError: An operation's declaration is wrong.
    """
    rc = Raincheck(settings=settings)
    for operation in (make_operations(settings) if operations is None else operations).values():
        rc.add(operation)
    with _logging_left_alone():
        server = MCPServer[Any](
            settings.server.name,
            version=settings.server.version,
            instructions=settings.server.instructions
            or (WITHOUT_TICKETS if settings.server.handle_tools == "none" else INSTRUCTIONS),
            extensions=[rc],
            lifespan=rc.lifespan,
            log_level="WARNING",
            token_verifier=verifier,
            auth=sdk_settings(settings.server.auth, address) if verifier and settings.server.auth else None,
        )
    shorten(server, rc)
    return server, rc


@contextlib.contextmanager
def _logging_left_alone() -> Generator[None]:
    """The SDK's server sets up logging where nothing else has, and imports rich for it (50 ms); `serve` has its own."""
    sdk: Any = sys.modules[MCPServer.__module__]
    configure = sdk.configure_logging

    def leave_alone(level: str) -> None:
        pass

    sdk.configure_logging = leave_alone
    try:
        yield
    finally:
        sdk.configure_logging = configure


def serve(settings: Settings) -> int:
    """Serve until told to stop (SIGTERM, SIGINT, or the end of stdin on stdio); the exit code.

    Raises:
        ConfigurationError: An operation's declaration is wrong, or it is open who may call.
    """
    log = settings.observability
    configure_logs(log.log_level, log.log_format, tasks=log.log_tasks)
    throttle_logs()
    raise_descriptor_limit()
    verifier = make_verifier(settings, os.environ)
    try:
        # Before any task is taken up: a server that cannot be reached runs none.
        door = (
            take_wire() if settings.server.transport == "stdio" else listen(settings.server.host, settings.server.port)
        )
    except OSError as error:
        print(f"raincheck: cannot listen on {_where(settings)}: {error.strerror or error}", file=sys.stderr)
        return 1
    with door if isinstance(door, socket.socket) else contextlib.nullcontext():
        address = _address(settings, door) if isinstance(door, socket.socket) else ""
        server, rc = make_server(settings, verifier=verifier, address=address)
        if settings.outlives(stdio=settings.server.transport == "stdio"):
            rc.engine = hand_over_engine(local_worker(settings))
        try:
            # Closing the runner would wait for what will not stop: an operation, the thread that reads stdin.
            code = asyncio.Runner().run(_serve(server, rc, settings, door))
        except StoreError as error:
            print(f"raincheck: {error.message}", file=sys.stderr)
            code = 1
    if sys.stderr:
        sys.stderr.flush()
    os._exit(code)


async def _serve(server: MCPServer[Any], rc: Raincheck, settings: Settings, door: Wire | socket.socket) -> int:
    told = stop_requested()
    async with rc.running():
        # A full collection of what was set up would cost tens of milliseconds, each time (shared/figures.md).
        gc.freeze()
        service = await rc.started()
        store, engine = rc.place()
        number = len(rc.operations)
        logger.info("serving %d operations of %s, store %s, engine %s", number, settings.file, store, engine)
        if not number:
            logger.warning("%s declares no operation: clients find no work", settings.file)
        web: uvicorn.Server | None = None
        if isinstance(door, Wire):
            # What is held then is answered as the task is by the end of the drain.
            rc.end_held_calls = service.stop
            serving = asyncio.create_task(run_on(door, server))
        else:
            web = _web_server(server, settings, door, service)
            serving = asyncio.create_task(web.serve(sockets=[door]))
        stopping = asyncio.create_task(told.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            stopping.cancel()
            try:
                serving.result()
            except* ConnectionError:
                logger.info("the client hung up")
            return 0
        logger.info("told to stop")
        # Callers are answered meanwhile: what is drained reaches who waits for it.
        await service.stop()
        if web is not None:
            # What uvicorn has to say of the calls that it breaks off is no news.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            web.should_exit = True
            await serving
    return 0


def _web_server(
    server: MCPServer[Any], settings: Settings, listener: socket.socket, service: Service
) -> uvicorn.Server:
    import uvicorn

    from raincheck.mcp.server.connections import BoundedServer, ConnectionBounds

    of = settings.server
    if of.transport == "sse":
        sse = server.sse_app(host=of.host, transport_security=UNCHECKED)
        sse.router.redirect_slashes = False
        app: ASGIApp = sse
    else:
        app = http_app(server, host=of.host)
    print(f"raincheck: serving on {_address(settings, listener)}", file=sys.stderr, flush=True)
    bounds = ConnectionBounds(
        total=of.max_connections,
        per_address=of.max_connections_per_address,
        head_seconds=of.head_timeout_seconds,
        body_seconds=of.body_timeout_seconds,
        write_seconds=of.write_timeout_seconds,
    )
    config = uvicorn.Config(
        _whole(app, settings, service),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    return BoundedServer(config, listener, bounds.within(raise_descriptor_limit()))


def _whole(app: ASGIApp, settings: Settings, service: Service) -> ASGIApp:
    """The application with all that stands before it. Who has shown no token gets no body read, whatever the path."""
    of = settings.server
    budget = BodyBudget(of.max_body_bytes_under_way)
    app = budget.within(app)
    if of.auth is not None:
        app = ending_with_its_token(app)
    app = checked_heads(app, known_names(of), path=_path(settings))
    app = with_health(app, Health(service))
    # A token can have been handed out only where one of these is set.
    if of.public_url is not None or of.callback_secret is not None:
        largest = settings.execution.max_result_bytes
        app = with_callbacks(app, _given(service.callbacks), max_result_bytes=largest, budget=budget)
    return answered_at_the_stop(app)


def _given(callbacks: CompletionTokens) -> Callable[[], Awaitable[CompletionTokens]]:
    async def give() -> CompletionTokens:
        return callbacks

    return give


def _address(settings: Settings, listener: socket.socket) -> str:
    host = settings.server.host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}{_path(settings)}"


def _path(settings: Settings) -> str:
    return "/sse" if settings.server.transport == "sse" else MCP_PATH


def _where(settings: Settings) -> str:
    server = settings.server
    return "stdin and stdout" if server.transport == "stdio" else f"{server.host}:{server.port}"
