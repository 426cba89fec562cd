"""Driver of the OpenAI Agents SDK: `Runner.run` with one MCP server. Order and answer: driving.py."""

from __future__ import annotations

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
    from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
    from openai import AsyncOpenAI

    if order.url:
        server = MCPServerStreamableHttp(params={"url": order.url}, name="rain")
    else:
        command, *arguments = order.command
        server = MCPServerStdio(params={"command": command, "args": arguments, "env": order.env}, name="rain")
    api = AsyncOpenAI(base_url=order.api, api_key=KEY)
    kind = OpenAIResponsesModel if order.wire == "responses" else OpenAIChatCompletionsModel
    async with server:
        agent = Agent(
            name="agent", instructions=INSTRUCTIONS, model=kind(model=MODEL, openai_client=api), mcp_servers=[server]
        )
        return str((await Runner.run(agent, order.prompt, max_turns=order.max_turns)).final_output)


if __name__ == "__main__":
    drive(answer, "openai-agents", "mcp")
