"""Driver of CrewAI: an `Agent` with an MCP server, kicked off by itself. Order and answer: driving.py."""

from __future__ import annotations

import asyncio

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    from crewai import LLM, Agent
    from crewai.mcp import MCPServerHTTP, MCPServerStdio

    if order.url:
        server = MCPServerHTTP(url=order.url)
    else:
        command, *arguments = order.command
        server = MCPServerStdio(command=command, args=arguments, env=order.env)
    model = LLM(
        model=f"openai/{MODEL}",
        base_url=order.api,
        api_key=KEY,
        api="responses" if order.wire == "responses" else "completions",
    )
    agent = Agent(
        role="Agent", goal=INSTRUCTIONS, backstory=INSTRUCTIONS, llm=model, mcps=[server], max_iter=order.max_turns
    )
    return (await asyncio.to_thread(agent.kickoff, order.prompt)).raw


if __name__ == "__main__":
    drive(answer, "crewai", "mcp")
