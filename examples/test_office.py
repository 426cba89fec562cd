from mcp import Client
from operations import mcp


async def test_a_document_is_summarised_in_the_background() -> None:
    async with Client(mcp) as agent:
        ticket = (await agent.call_tool("summarise", {"pages": ["a slow tool", "a ticket"]})).structured_content
        answer = await agent.call_tool("resolve_task_status", {"task_ref": ticket["task_ref"], "wait_seconds": 5})
        assert answer.structured_content["result"] == {"pages": 2, "words": 5}
