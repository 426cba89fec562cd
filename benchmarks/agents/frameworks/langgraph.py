"""Driver of LangGraph: `create_agent` with langchain-mcp-adapters. Order and answer: driving.py.

By habit the adapters open a session for each call: a server on stdio is started anew each time, and ends with the call.
`persistent` keeps one session for the run.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    from langchain.agents import create_agent
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from langchain_mcp_adapters.tools import load_mcp_tools
    from langchain_openai import ChatOpenAI

    connection: dict[str, Any]
    if order.url:
        connection = {"transport": "streamable_http", "url": order.url}
    else:
        command, *arguments = order.command
        connection = {"transport": "stdio", "command": command, "args": arguments, "env": order.env}
    client = MultiServerMCPClient({"rain": connection})
    model = ChatOpenAI(model=MODEL, base_url=order.api, api_key=KEY, use_responses_api=order.wire == "responses")
    async with AsyncExitStack() as stack:
        if order.options.get("persistent"):
            tools = await load_mcp_tools(await stack.enter_async_context(client.session("rain")))
        else:
            tools = await client.get_tools()
        agent = create_agent(model, tools, system_prompt=INSTRUCTIONS)
        # A turn is two steps of the graph: the model, and the tools.
        limit = {"recursion_limit": 2 * order.max_turns + 1}
        state = await agent.ainvoke({"messages": [{"role": "user", "content": order.prompt}]}, config=limit)
    return str(state["messages"][-1].text)


if __name__ == "__main__":
    drive(answer, "langgraph", "langchain", "langchain-mcp-adapters", "mcp")
