"""The Python functions that the demo serves: ordinary ones."""

import asyncio
from pathlib import Path

from raincheck import TaskContext

PAGES = 8
LEDGER = Path(__file__).with_name("ledger.txt")


async def summarise(text: str, context: TaskContext) -> dict[str, object]:
    """Summarise a text, one page a second."""
    for page in range(1, PAGES + 1):
        await context.progress((page - 1) / PAGES, f"page {page} of {PAGES}")
        await asyncio.sleep(1)
    return {"words": len(text.split()), "started": context.attempt}


async def charge_card(amount: int) -> str:
    """Charge the card; to do this twice would be worse than not to know whether it was done."""
    with LEDGER.open("a") as ledger:
        ledger.write(f"charged {amount}\n")
    await asyncio.sleep(10)
    return "paid"
