"""The tool listing of an `MCPServer`: additions to `tools/list`, and the start and stop of the service."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

from raincheck.domain.result_body import PREVIEW_SCHEMA
from raincheck.mcp.surfaces.handle_definitions import HANDLE_NAMES, HANDLE_TOOLS, HandleTool
from raincheck.mcp.surfaces.negotiation import CORE_TASKS_VERSION
from raincheck.mcp.surfaces.typed_tools import task_support
from raincheck.operations.operation import Operation

CORE_TASKS_CAPABILITY: Mapping[str, Any] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
MAY_BE_SLOW = "(May answer with a ticket: resolve_task_status then waits for the result.)"


def constructing_server() -> MCPServer[Any] | None:
    """The `MCPServer` whose constructor is asking for our tools, or None when other code asks.

    The SDK hands an extension no server, yet operations declared after `MCPServer(extensions=[rc])` must be listed too,
    and what was pending must be taken up at the first message. Where a later SDK asks differently, this finds nothing
    and `lifespan=rc.lifespan` gives the server instead.
    """
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    for _ in range(4):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        caller = frame.f_locals.get("self")
        if isinstance(caller, MCPServer) and frame.f_code.co_name in ("__init__", "_apply_extension"):
            return caller  # pyright: ignore[reportUnknownVariableType]
    return None


def annotations_of(tool: HandleTool) -> ToolAnnotations | None:
    """Hints for clients: which tools change nothing and may be called without asking the user."""
    if tool.read_only:
        return ToolAnnotations(read_only_hint=True)
    # What says nothing of itself counts as destructive, and a cancel is.
    return None if tool.name == "cancel_background_task" else ToolAnnotations(destructive_hint=False)


def harmless_twice(annotations: ToolAnnotations | None) -> bool:
    """Whether a tool says of itself that it may be called twice without harm."""
    return annotations is not None and bool(annotations.read_only_hint or annotations.idempotent_hint)


def listed_handles() -> dict[str, dict[str, Any]]:
    """The handle tools' exact schemas as `tools/list` shows them."""
    return {
        tool.name: {"inputSchema": tool.input_schema()} | ({} if tool.meta is None else {"_meta": dict(tool.meta)})
        for tool in HANDLE_TOOLS
    }


def listed(operation: Operation) -> dict[str, Any]:
    """An operation's typed tool as `tools/list` shows it.

    It shows an `outputSchema` only where every answer fits it, which a ticket does not (`promised_schema`).
    """
    tool: dict[str, Any] = {
        "name": operation.operation_type,
        "description": described(operation),
        "inputSchema": dict(operation.executor.parameters_schema),
    }
    if operation.title:
        tool["title"] = operation.title
    if (schema := promised_schema(operation)) is not None:
        tool["outputSchema"] = schema
    return tool


def described(operation: Operation) -> str:
    """The description of its typed tool, which says where a call may be answered with a ticket."""
    if not may_give_ticket(operation):
        return operation.description
    return f"{operation.description.rstrip()} {MAY_BE_SLOW}".lstrip()


def promised_schema(operation: Operation) -> dict[str, Any] | None:
    """The schema that every answer of the typed tool fits; None where there is no such one.

    A large result is answered with its preview, which the schema then allows too.
    """
    schema, policy = operation.output_schema, operation.policy
    if schema is None or may_give_ticket(operation):
        return None
    if policy.max_inline_bytes >= policy.max_result_bytes:
        return dict(schema)
    # Definitions are found from the root; a reference to the root itself would then mean something else.
    if any(not ref.startswith("#/$defs/") for ref in re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema))):
        return None
    inner = dict(schema)
    above = {key: inner.pop(key) for key in ("$schema", "$defs") if key in inner}
    return {**above, "type": "object", "anyOf": [inner, PREVIEW_SCHEMA]}


def with_task_support(tools: Sequence[Mapping[str, Any]], operations: Mapping[str, Operation]) -> list[dict[str, Any]]:
    """The listed tools, each saying whether it may be called as a core task (2025-11-25).

    The handle tools say nothing, which means the same as "forbidden" in fewer words.
    """

    def support(name: str) -> str:
        return task_support(operations[name]) if name in operations else "forbidden"

    return [
        dict(tool) if tool["name"] in HANDLE_NAMES else {**tool, "execution": {"taskSupport": support(tool["name"])}}
        for tool in tools
    ]


def with_core_tasks(result: Mapping[str, Any]) -> dict[str, Any]:
    """The `initialize` result, with the capability of core tasks where that version was negotiated."""
    if result.get("protocolVersion") != CORE_TASKS_VERSION:
        return dict(result)
    return {**result, "capabilities": {**result["capabilities"], "tasks": CORE_TASKS_CAPABILITY}}


def may_give_ticket(operation: Operation) -> bool:
    """Whether a call of the typed tool may be answered with a ticket."""
    policy = operation.policy
    return policy.mode != "inline" and policy.without_tasks == "ticket"


def without_output_schema(tools: Sequence[Mapping[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """The listed tools, where those of these names promise no schema of their answer: it may be a ticket."""
    return [
        {key: value for key, value in tool.items() if key != "outputSchema" or tool["name"] not in names}
        for tool in tools
    ]
