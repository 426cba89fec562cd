import asyncio
import sys

from mcp import Client, StdioServerParameters


async def main(key: str = "rain-1", pages: str = "3") -> None:
    server = StdioServerParameters(command="raincheck", args=["serve", "raincheck.toml"])
    async with Client(server) as agent:
        order = {"topic": "rain", "pages": int(pages)}
        answer = await agent.call_tool(
            "initiate_background_task",
            {"operation_type": "report", "parameters": order, "idempotency_key": key},
        )
        ticket = answer.structured_content
        print("ticket:", ticket["task_ref"], ticket["status"], flush=True)
        task = {"status": "unknown"}
        while task["status"] not in ("completed", "failed", "cancelled"):
            answer = await agent.call_tool("resolve_task_status", {"task_ref": ticket["task_ref"]})
            task = answer.structured_content
        print(task["status"] + ":", task["result"])


asyncio.run(main(*sys.argv[1:]))
