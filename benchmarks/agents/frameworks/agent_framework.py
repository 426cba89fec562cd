"""Driver of Microsoft Agent Framework: an `Agent` with an MCP tool. Order and answer: driving.py."""

from __future__ import annotations

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    from agent_framework import Agent, MCPStdioTool, MCPStreamableHTTPTool
    from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient

    if order.url:
        server = MCPStreamableHTTPTool(name="rain", url=order.url)
    else:
        command, *arguments = order.command
        server = MCPStdioTool(name="rain", command=command, args=arguments, env=order.env)
    kind = OpenAIChatClient if order.wire == "responses" else OpenAIChatCompletionClient
    client = kind(
        model=MODEL,
        base_url=order.api,
        api_key=KEY,
        function_invocation_configuration={"max_iterations": order.max_turns},
    )
    async with server, Agent(client=client, instructions=INSTRUCTIONS, tools=[server]) as agent:
        return (await agent.run(order.prompt)).text


if __name__ == "__main__":
    drive(answer, "agent-framework-core", "agent-framework-openai", "mcp")
