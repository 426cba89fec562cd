"""The load client, a process of its own: `python -m benchmarks.load` reads one order as JSON, writes what it measured.

Orders: `latency` and `rate` of one repeated call, `fetch` (submit, then status until the result is there, again and
again), `submit` (many at once), `follow` (wait for many tasks, through restarts of the server), and those of
`benchmarks.polling_agents`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks import polling_agents
from benchmarks.dialects import DIALECTS, Dialect
from benchmarks.wire import Call, CallFailed, Connection

HOLD_SECONDS = 20.0
WARM_SECONDS = 0.3


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def _chosen_call(dialect: Dialect, port: int, order: dict[str, Any]) -> Call:
    """The call to repeat: a submission, or the status of one settled task made for the purpose."""
    submit = dialect.submit(order["operation"], order.get("parameters", {}))
    if order["call"] == "submit":
        return submit
    connection = await Connection.open(port)
    ref = dialect.ref(await connection.call(submit))
    await _until_terminal(dialect, connection, ref, pause=0.02)
    connection.close()
    return dialect.status(ref)


async def _until_terminal(dialect: Dialect, connection: Connection, ref: str, pause: float) -> Any:
    status = dialect.status(ref, HOLD_SECONDS if dialect.holds else 0)
    while True:
        state = dialect.state(await connection.call(status))
        if state.terminal:
            assert state.status == "completed", state
            return state.value
        if not dialect.holds:
            await asyncio.sleep(pause)


async def latency(dialect: Dialect, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """One caller, one call after another: p50 and p99 in milliseconds."""
    call = await _chosen_call(dialect, port, order)
    connection = await Connection.open(port)
    taken: list[float] = []
    for number in range(order["calls"] + 20):
        started = time.perf_counter()
        await connection.call(call)
        if number >= 20:
            taken.append((time.perf_counter() - started) * 1000)
    connection.close()
    return {"p50": percentile(taken, 0.5), "p99": percentile(taken, 0.99), "worst": max(taken)}


async def _hammer(port: int, order: dict[str, Any], once: Callable[[Connection], Awaitable[Any]]) -> dict[str, Any]:
    """So many callers for so many seconds, after a short warm-up that does not count."""
    begin = time.perf_counter() + WARM_SECONDS
    end = begin + order["seconds"]
    taken: list[float] = []

    async def caller() -> None:
        connection = await Connection.open(port)
        while (started := time.perf_counter()) < end:
            await once(connection)
            finished = time.perf_counter()
            if begin <= finished < end:
                taken.append((finished - started) * 1000)
        connection.close()

    await asyncio.gather(*(caller() for _ in range(order["callers"])))
    if not taken:
        return {"per_second": 0.0, "p50": 0.0, "p99": 0.0}
    return {
        "per_second": len(taken) / order["seconds"],
        "p50": percentile(taken, 0.5),
        "p99": percentile(taken, 0.99),
    }


async def rate(dialect: Dialect, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """How many of one call the server answers per second."""
    call = await _chosen_call(dialect, port, order)
    return await _hammer(port, order, lambda connection: connection.call(call))


async def fetch(dialect: Dialect, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """How many no-op tasks per second go all the way: submitted, run, result with the client."""
    submit = dialect.submit("noop", {})

    async def once(connection: Connection) -> None:
        ref = dialect.ref(await connection.call(submit))
        value = await _until_terminal(dialect, connection, ref, order["pause"])
        assert value == "done", value

    return await _hammer(port, order, once)


async def submit(dialect: Dialect, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """Submit all the given tasks at once, each on its own connection, `spacing` seconds apart (0: all together)."""
    connections = [await Connection.open(port) for _ in order["tasks"]]

    async def one(number: int, parameters: dict[str, Any]) -> tuple[str, float]:
        await asyncio.sleep(number * order.get("spacing", 0))
        started = time.perf_counter()
        ref = dialect.ref(await connections[number].call(dialect.submit(order["operation"], parameters)))
        return ref, (time.perf_counter() - started) * 1000

    first = time.time()
    done = await asyncio.gather(*(one(number, parameters) for number, parameters in enumerate(order["tasks"])))
    for connection in connections:
        connection.close()
    return {"first_at": first, "refs": [ref for ref, _ in done], "ack_ms": [ms for _, ms in done]}


async def follow(dialect: Dialect, port: int, order: dict[str, Any]) -> dict[str, Any]:
    """Wait for every task as a client does, by holding or by the server's hint, until `until` (wall clock)."""

    async def one(ref: str) -> dict[str, Any]:
        connection: Connection | None = None
        state = None
        while time.time() < order["until"]:
            try:
                connection = connection or await Connection.open(port)
                left = max(0.1, order["until"] - time.time())
                call = dialect.status(ref, min(HOLD_SECONDS, left) if dialect.holds else 0)
                state = dialect.state(await asyncio.wait_for(connection.call(call), left + 1))
            except CallFailed as error:
                return {"status": str(error), "at": time.time(), "value": None}
            except (OSError, TimeoutError):
                # The server is being restarted: that is what some rows measure.
                connection = None
                await asyncio.sleep(0.05)
                continue
            if state.terminal:
                break
            if not dialect.holds:
                await asyncio.sleep(state.ask_again_after)
        if connection is not None:
            connection.close()
        if state is None or not state.terminal:
            return {"status": "not settled in time", "at": time.time(), "value": None}
        return {"status": state.status, "at": time.time(), "value": state.value}

    return {"tasks": await asyncio.gather(*(one(ref) for ref in order["refs"]))}


ORDERS = {"latency": latency, "rate": rate, "fetch": fetch, "submit": submit, "follow": follow, **polling_agents.ORDERS}


def main() -> None:
    """Do one order."""
    order = json.load(sys.stdin)
    gc.disable()  # the client's own collections must not count as the server's latency
    dialect = DIALECTS[order["dialect"]]
    result = asyncio.run(ORDERS[order["do"]](dialect, order["port"], order))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
