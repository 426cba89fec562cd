import asyncio
import json
from typing import Any

from raincheck import RaincheckError
from raincheck.client import TaskPoller, connect
from raincheck.client.parsing import Session

poller = TaskPoller()


async def call(session: Session, name: str, arguments: dict[str, Any]) -> str:
    """What the model reads of a tool call. It never sees a ticket."""
    try:
        result = await poller.resolve_if_ticket(session, await session.call_tool(name, arguments))
    except RaincheckError as error:
        return f"{error.code}: {error.message}"
    return json.dumps(result.value)


async def main() -> None:
    async with connect("raincheck serve raincheck.toml") as session:
        # What the model asked for in one turn: both run at once.
        wished = [("report", {"topic": "rain"}), ("report", {"topic": "snow", "pages": 1})]
        for answer in await asyncio.gather(*(call(session, *each) for each in wished)):
            print("result:", answer)


asyncio.run(main())
