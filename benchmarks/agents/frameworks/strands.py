"""Driver of Strands Agents: an `Agent` with an `MCPClient`. Order and answer: driving.py."""

from __future__ import annotations

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client
    from strands import Agent
    from strands.models.openai import OpenAIModel
    from strands.models.openai_responses import OpenAIResponsesModel
    from strands.tools.mcp import MCPClient

    tasks = {} if order.native_tasks else None
    if order.url:
        server = MCPClient(url=order.url, tasks_config=tasks)
    else:
        command, *arguments = order.command
        parameters = StdioServerParameters(command=command, args=arguments, env=order.env)
        server = MCPClient(lambda: stdio_client(parameters), tasks_config=tasks)
    kind = OpenAIResponsesModel if order.wire == "responses" else OpenAIModel
    model = kind(client_args={"base_url": order.api, "api_key": KEY}, model_id=MODEL)
    # The agent starts the client and, as its only user, ends it.
    agent = Agent(model=model, system_prompt=INSTRUCTIONS, tools=[server], callback_handler=None)
    try:
        return str(await agent.invoke_async(order.prompt, limits={"turns": order.max_turns}))
    finally:
        agent.cleanup()


if __name__ == "__main__":
    drive(answer, "strands-agents", "mcp")
