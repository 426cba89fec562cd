"""The one server that every client is pointed at: `raincheck serve`, over stdio and streamable HTTP."""

from __future__ import annotations

TOML = """
[server]
name = "office"
[state]
url = "tasks.db"
[execution]
lease_seconds = 1
drain_seconds = 0
[operations.slow]
kind = "python"
target = "ops:slow"
mode = "task"
on_worker_lost = "retry"
[operations.endless]
kind = "python"
target = "ops:endless"
mode = "task"
on_worker_lost = "retry"
[operations.confirm]
kind = "python"
target = "ops:confirm"
mode = "task"
on_worker_lost = "retry"
[operations.quick]
kind = "python"
target = "ops:quick"
mode = "inline"
"""

FUNCTIONS = '''
import asyncio
from raincheck import TaskContext

async def slow(word: str, context: TaskContext) -> dict[str, str]:
    """Takes its time."""
    await context.progress(0.5, "half way")
    await asyncio.sleep(0.5)
    return {"word": word}

async def endless() -> None:
    """Never ends by itself."""
    await asyncio.Event().wait()

async def confirm(context: TaskContext) -> str:
    """Asks its user."""
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    answer = await context.elicit("Are you sure?", schema)
    return f"{answer['action']}: {answer['content']['sure']}"

def quick(word: str) -> str:
    """Answers at once."""
    return word.upper()
'''
