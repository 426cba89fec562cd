"""The operations that raincheck runs in the benchmarks."""

import asyncio
import time


async def noop() -> str:
    return "done"


async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return time.time()
