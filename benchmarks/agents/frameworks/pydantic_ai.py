"""Driver of Pydantic AI: `Agent.run` with an `MCPToolset`. Order and answer: driving.py.

The framework follows MCP tasks as soon as `fastmcp-tasks` can be imported; so without `native_tasks` it cannot.
"""

from __future__ import annotations

import sys

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    if not order.native_tasks:
        sys.modules["fastmcp_tasks"] = None  # pyright: ignore[reportArgumentType] (Python's way to say: not installed)
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai import Agent
    from pydantic_ai.mcp import MCPToolset
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.usage import UsageLimits

    if order.url:
        server = MCPToolset(order.url)
    else:
        command, *arguments = order.command
        server = MCPToolset(StdioTransport(command, arguments, env=order.env))
    provider = OpenAIProvider(base_url=order.api, api_key=KEY)
    kind = OpenAIResponsesModel if order.wire == "responses" else OpenAIChatModel
    agent = Agent(kind(MODEL, provider=provider), instructions=INSTRUCTIONS, toolsets=[server])
    async with agent:
        run = await agent.run(order.prompt, usage_limits=UsageLimits(request_limit=order.max_turns))
    return str(run.output)


if __name__ == "__main__":
    drive(answer, "pydantic-ai-slim", "fastmcp-slim", "mcp")
