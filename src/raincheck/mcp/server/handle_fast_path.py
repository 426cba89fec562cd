"""The fast path of the handle tools in `raincheck serve`.

The SDK checks such a call's request and its result against its models, both of which are checked or made here anyway.
This middleware answers the call before that. It must be the innermost one, and no other extension may want to see tool
calls: then nothing is passed by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import SERVER_INFO_META_KEY, Implementation
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from raincheck.mcp.host import TaskHost
from raincheck.mcp.surfaces.handle_definitions import HANDLE_NAMES


def shorten(server: MCPServer[Any], workshop: TaskHost) -> None:
    """Answer the handle tools' calls of the protocol's present version by the short way."""
    info = Implementation(name=server.name, version=server.version, title=server.title)
    stamp = {SERVER_INFO_META_KEY: info.model_dump(by_alias=True, mode="json", exclude_none=True)}

    async def middleware(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method != "tools/call" or ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return await call_next(ctx)
        params: Mapping[str, Any] = ctx.params or {}
        name: Any = params.get("name")
        arguments: Any = params.get("arguments", {})
        # Whatever is odd about the request is the SDK's to say.
        if name not in HANDLE_NAMES or not isinstance(arguments, dict) or "inputResponses" in params:
            return await call_next(ctx)
        result = await workshop.answer_handle(name, arguments, ctx)  # pyright: ignore[reportUnknownArgumentType]
        return {**result, "_meta": stamp}

    server.middleware.append(middleware)
