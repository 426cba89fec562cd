"""Which surface a request gets: the tasks extension, the 2025-11-25 core tasks, or the handle tools.

The opt-in is the request's own. What was declared earlier on a connection, or in a legacy `initialize`, does not count
(docs/specification: SEP-2663 "Negotiation", SEP-1686 "Task-augmented requests").
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import CLIENT_CAPABILITIES_META_KEY, MISSING_REQUIRED_CLIENT_CAPABILITY, CallToolRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
"""The identifier of the tasks extension (SEP-2663)."""

CORE_TASKS_VERSION: Final = "2025-11-25"
"""The one protocol version with core tasks (SEP-1686)."""


class Surface(Enum):
    """How a call that becomes a task is answered."""

    HANDLES = "handle tools"
    EXTENSION = "tasks extension"
    CORE = "core tasks of 2025-11-25"


def declares_tasks(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether this very request declared the tasks extension, on a protocol version that has extensions."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    capabilities: Any = (ctx.meta or {}).get(CLIENT_CAPABILITIES_META_KEY)
    if not isinstance(capabilities, dict):
        return False
    extensions: Any = capabilities.get("extensions")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return isinstance(extensions, dict) and TASKS_EXTENSION in extensions


def surface_of(params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any]) -> Surface:
    """The surface that this `tools/call` negotiated."""
    if declares_tasks(ctx):
        return Surface.EXTENSION
    if ctx.protocol_version == CORE_TASKS_VERSION and params.task is not None:
        return Surface.CORE
    return Surface.HANDLES


def missing_capability(message: str) -> MCPError:
    """The error for a request that cannot be served without the tasks extension (-32021)."""
    return MCPError(
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        message=message,
        data={"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}},
    )


def rpc_error(error: Mapping[str, Any]) -> MCPError:
    """A stored JSON-RPC error as the SDK raises it."""
    return MCPError(code=error["code"], message=error["message"], data=error.get("data"))
