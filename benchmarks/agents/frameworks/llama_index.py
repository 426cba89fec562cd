"""Driver of LlamaIndex: a `FunctionAgent` with the tools of a `BasicMCPClient`. Order and answer: driving.py."""

from __future__ import annotations

from driving import INSTRUCTIONS, KEY, MODEL, Order, drive


async def answer(order: Order) -> str:
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.llms.openai import OpenAI, OpenAIResponses
    from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

    if order.url:
        server = BasicMCPClient(order.url)
    else:
        command, *arguments = order.command
        server = BasicMCPClient(command, args=arguments, env=order.env)
    tools = await McpToolSpec(client=server).to_tool_list_async()
    kind = OpenAIResponses if order.wire == "responses" else OpenAI
    agent = FunctionAgent(
        tools=tools, llm=kind(model=MODEL, api_base=order.api, api_key=KEY), system_prompt=INSTRUCTIONS
    )
    return str(await agent.run(order.prompt, max_iterations=order.max_turns))


if __name__ == "__main__":
    drive(answer, "llama-index-core", "llama-index-tools-mcp", "mcp")
