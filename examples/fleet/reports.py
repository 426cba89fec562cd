import asyncio
import os
import socket

from raincheck import TaskContext


async def build(task: TaskContext, topic: str, pages: int = 3) -> dict[str, object]:
    """Build a report on a topic."""
    for page in range(pages):
        await task.progress(page / pages, f"page {page + 1} of {pages}")
        await asyncio.sleep(1)
    return {"topic": topic, "pages": pages, "built_by": f"{socket.gethostname()}-{os.getpid()}"}
