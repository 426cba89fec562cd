"""The tools that the suite's general server scenarios ask for: through raincheck where it has a part in them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    EmbeddedResource,
    ImageContent,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

from raincheck import TaskContext
from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.operation import Operation
from raincheck.operations.schema import ParameterSchema

__all__ = ["ADOPTED", "add_general_tools"]

ADOPTED = ("test_simple_text", "test_*_content", "test_embedded_resource", "test_multiple_*", "test_error_handling")
"""The name patterns of the plain tools that run as raincheck operations."""

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
SOUND = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


class _WholeSchema:
    """An executor with exactly the schema that the suite looks for."""

    parameters_schema = SCHEMA_2020_12

    def __init__(self) -> None:
        self._schema = ParameterSchema(SCHEMA_2020_12, "json_schema_2020_12_tool")

    def validate(self, arguments: Any) -> dict[str, Any]:
        return self._schema.validate(arguments)

    async def run(self, arguments: Any, context: TaskContext) -> Any:
        return dict(arguments)


def add_general_tools(server: MCPServer[Any], rc: Raincheck) -> None:
    """Add all of them; `rc` adopts the tools of `ADOPTED` by itself."""
    _add_content_tools(server)
    _add_operations(rc)
    _add_asking_tools(server)
    _add_protocol_tools(server)


def _add_content_tools(server: MCPServer[Any]) -> None:
    picture = ImageContent(type="image", data=PICTURE, mime_type="image/png")
    document = TextResourceContents(uri="test://document", mime_type="text/plain", text="An embedded resource.")

    @server.tool()
    def test_simple_text() -> str:
        """Text."""
        return "This is a simple text response for testing."

    @server.tool()
    def test_image_content() -> list[ImageContent]:
        """A picture."""
        return [picture]

    @server.tool()
    def test_audio_content() -> list[AudioContent]:
        """A sound."""
        return [AudioContent(type="audio", data=SOUND, mime_type="audio/wav")]

    @server.tool()
    def test_embedded_resource() -> list[EmbeddedResource]:
        """An embedded resource."""
        return [EmbeddedResource(type="resource", resource=document)]

    @server.tool()
    def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        """Text, a picture and a resource."""
        text = TextContent(type="text", text="Multiple content types test:")
        return [text, picture, EmbeddedResource(type="resource", resource=document)]

    @server.tool()
    def test_error_handling() -> str:
        """Always fails."""
        raise RuntimeError("This tool intentionally returns an error for testing")


def _add_operations(rc: Raincheck) -> None:
    rc.add(
        Operation(
            operation_type="json_schema_2020_12_tool",
            description="Tool with JSON Schema 2020-12 features",
            executor=_WholeSchema(),
        )
    )

    @rc.operation(mode="inline")
    async def test_tool_with_progress(context: TaskContext) -> str:
        """Reports its progress three times."""
        for fraction in (0.0, 0.5, 1.0):
            await context.progress(fraction, f"{fraction:.0%}")
            await asyncio.sleep(0.05)
        return "done"

    @rc.operation
    def test_region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        """Has a parameter that clients mirror in a header."""
        return region


def _add_asking_tools(server: MCPServer[Any]) -> None:
    text = {"type": "string"}
    person: dict[str, Any] = {
        "type": "object",
        "properties": {"username": text, "email": text},
        "required": ["username", "email"],
    }
    defaults: dict[str, Any] = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
    plain = ["option1", "option2", "option3"]
    choices: dict[str, Any] = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }

    async def ask(ctx: Context[Any, Any], message: str, schema: dict[str, Any]) -> str:
        answer = await ctx.session.elicit_form(message, schema, ctx.request_context.request_id)
        return f"action={answer.action}, content={answer.content}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context[Any, Any]) -> str:
        """Asks the user."""
        return await ask(ctx, message, person)

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context[Any, Any]) -> str:
        """Asks the user, with defaults."""
        return await ask(ctx, "Who?", {"type": "object", "properties": defaults})

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context[Any, Any]) -> str:
        """Asks the user to choose."""
        return await ask(ctx, "Which?", {"type": "object", "properties": choices})

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context[Any, Any]) -> str:
        """Asks the client's model."""
        message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        answer = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
            [message], max_tokens=100, related_request_id=ctx.request_context.request_id
        )
        return f"LLM response: {answer.content}"


def _add_protocol_tools(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_missing_capability(ctx: Context[Any, Any]) -> str:
        """Needs a client that can sample."""
        capabilities = ctx.client_capabilities
        if capabilities is None or capabilities.sampling is None:
            needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs sampling", needed)
        return "ok"

    @server.tool()
    async def test_trigger_tool_change(ctx: Context[Any, Any]) -> str:
        """Says that the list of tools has changed."""
        await ctx.notify_tools_changed()
        return "ok"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context[Any, Any]) -> str:
        """Says that the list of prompts has changed."""
        await ctx.notify_prompts_changed()
        return "ok"

    @server.tool()
    async def test_reconnection(ctx: Context[Any, Any]) -> str:
        """Ends its stream before its answer, which the client fetches by reconnecting."""
        await ctx.close_sse_stream()
        await asyncio.sleep(0.2)
        return "Reconnection test completed"
