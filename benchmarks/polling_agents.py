"""Agents that poll without a pause, and calls that are held: orders of the load client (`benchmarks.load`)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.dialects import Dialect
from benchmarks.wire import Call, Connection

__all__ = ["ORDERS"]


def _status(ref: str, arguments: Mapping[str, Any]) -> Call:
    name = "resolve_task_status"
    return Call(method="tools/call", name=name, params={"name": name, "arguments": {"task_ref": ref, **arguments}})


async def agents(dialect: Dialect, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """So many agents with so many sleeping tasks each, one after another: submit, then ask and ask again, naming no
    `wait_seconds` and never pausing, until it is settled.

    Of each task: how many calls it took, and how long after the end of its own code its caller knew, in milliseconds.
    """
    shortest, longest = order["seconds"]
    connections = [await Connection.open(port) for _ in range(order["agents"])]
    calls: list[int] = []
    lags: list[float] = []

    async def one(number: int, connection: Connection) -> None:
        naps = random.Random(number)
        await asyncio.sleep(number * order.get("spacing", 0.0))
        for _ in range(order["tasks"]):
            parameters = {"seconds": naps.uniform(shortest, longest)}
            status = _status(dialect.ref(await connection.call(dialect.submit("nap", parameters))), {})
            asked = 0
            while True:
                asked += 1
                state = dialect.state(await connection.call(status))
                if state.terminal:
                    break
            known = time.time()
            assert state.status == "completed", state
            calls.append(asked)
            lags.append((known - state.value) * 1000)
        connection.close()

    await asyncio.gather(*(one(number, connection) for number, connection in enumerate(connections)))
    return {"calls": calls, "lag_ms": lags}


async def park(dialect: Dialect, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """One held call for each of the given tasks, all sent at `at` (wall clock): when the last one was sent, and when
    the first and the last answer came."""
    connections = [await Connection.open(port) for _ in order["refs"]]
    await asyncio.sleep(order["at"] - time.time())
    answered: list[float] = []

    async def one(ref: str, connection: Connection) -> None:
        await connection.call(_status(ref, {"wait_seconds": order["wait_seconds"]}))
        answered.append(time.time())
        connection.close()

    held = [
        asyncio.create_task(one(ref, connection)) for ref, connection in zip(order["refs"], connections, strict=True)
    ]
    await asyncio.sleep(0)
    sent = time.time()
    await asyncio.gather(*held)
    return {"sent": sent, "first": min(answered), "last": max(answered)}


ORDERS = {"agents": agents, "park": park}
