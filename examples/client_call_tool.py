import asyncio

from mcp import Client, StdioServerParameters

from raincheck.client import TasksExtension


async def main() -> None:
    server = StdioServerParameters(command="raincheck", args=["serve", "raincheck.toml"])
    driver = TasksExtension(on_progress=lambda task: print(task.status))
    async with Client(server, extensions=[driver]) as agent:
        result = await agent.call_tool("report", {"topic": "rain"})
        print("result:", result.structured_content)


asyncio.run(main())
