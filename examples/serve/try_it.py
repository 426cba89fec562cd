import asyncio

from mcp import Client, StdioServerParameters


async def main() -> None:
    server = StdioServerParameters(command="raincheck", args=["serve", "raincheck.toml"])
    async with Client(server) as agent:
        answer = await agent.call_tool(
            "initiate_background_task",
            {"operation_type": "report", "parameters": {"topic": "rain"}, "idempotency_key": "rain-1"},
        )
        ticket = answer.structured_content
        print("ticket:", ticket["task_ref"], ticket["status"])
        task = ticket
        while task["status"] not in ("completed", "failed", "cancelled"):
            answer = await agent.call_tool("resolve_task_status", {"task_ref": ticket["task_ref"]})
            task = answer.structured_content
        print(task["status"] + ":", task["result"])


asyncio.run(main())
