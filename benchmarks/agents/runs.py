"""One run: a host, a scenario, a transport; what it cost and whether the result arrived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.agents.hosts.base import Host, Launch, Order
from benchmarks.agents.model.script import CANCELLED, DONE, Script, prompt
from benchmarks.agents.model.server import Exchange, Record, serve
from benchmarks.agents.model.toolbox import named
from benchmarks.agents.scenarios import Scenario
from benchmarks.agents.terminal import in_terminal
from benchmarks.agents.wire_facts import facts
from benchmarks.agents.workplace import SERVER, McpServer, Workplace
from benchmarks.processes import free_port

__all__ = ["Outcome", "run"]

_PATIENCE_SECONDS = 90.0
_GRACE_SECONDS = 5.0
_START_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one run showed.

    Attributes:
        side, revision: What was measured: "now" or "before", and its commit.
        turns: Requests of the main conversation.
        searches: Of these, those in which the model looked for tools that the host does not show at once.
        side_calls: The host's other requests to the model.
        polls: Calls of resolve_task_status.
        bytes_in: The bodies of the main conversation's requests together.
        first_bytes: The first of them.
        tools, tool_bytes: What the last of them offers.
        delivered: The model's last answer has the digest of what the operation returned, or says that it was cancelled.
        share: How much of the result the model was given.
        noticed: Seconds from the end of the operation to the request that brings the model the result.
        seconds: How long the host ran.
        identical: The longest row of equal calls one after another.
        calls: The tools called, in order.
        last: The model's last text.
        error: What went wrong with the run itself, "" where nothing did.
        facts: What the host said of itself on the wire.
    """

    host: str
    version: str
    scenario: str
    transport: str
    side: str
    revision: str
    turns: int = 0
    searches: int = 0
    side_calls: int = 0
    polls: int = 0
    bytes_in: int = 0
    first_bytes: int = 0
    tools: int = 0
    tool_bytes: int = 0
    delivered: bool = False
    share: float = 0.0
    noticed: float | None = None
    seconds: float = 0.0
    identical: int = 0
    calls: list[str] = field(default_factory=list[str])
    last: str = ""
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        return asdict(self)


async def run(
    host: Host,
    version: str,
    scenario: Scenario,
    transport: str,
    *,
    source: Path | None = None,
    side: str = "now",
    revision: str = "",
    keep: Path | None = None,
) -> Outcome:
    """Run it in a folder of its own; `keep`: where that is left for a look, with the model's bodies."""
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-agents-")))
        place = Workplace(folder / "run", source)
        record = Record(bodies=[] if keep else None)
        began, error = time.time(), ""
        async with serve(record, server=SERVER) as port, _server(place, transport) as mcp:
            order = Order(
                place=place,
                model_port=port,
                mcp=mcp,
                prompt=prompt(Script(operation=scenario.operation, arguments=scenario.arguments, then=scenario.then)),
            )
            launch = host.launch(order)
            limit = scenario.seconds + _PATIENCE_SECONDS
            if launch.keys:
                error = await in_terminal(launch, place, limit, lambda: _over(record))
            else:
                error = await _without_terminal(launch, place, limit)
        seconds = time.time() - began
        if keep:
            _leave(keep, record)
        return Outcome(
            host=host.name,
            version=version,
            scenario=scenario.name,
            transport=transport,
            side=side,
            revision=revision,
            seconds=round(seconds, 1),
            error=error,
            facts=facts(place.wire()),
            **_measured(record, place, scenario),
        )


def _measured(record: Record, place: Workplace, scenario: Scenario) -> dict[str, Any]:
    main = [each for each in record.exchanges if each.main]
    if not main:
        return {"side_calls": len(record.exchanges)}
    calls = [each.call for each in main if each.call]
    last, ended = main[-1].text, place.ended()
    brought = next((each for each in main if ended and each.lines), None)
    if scenario.then == "cancel":
        cancelled = any(entry["event"] == "cancelled" for entry in place.clock())
        delivered, share, noticed = cancelled and CANCELLED in last, float(cancelled), None
    else:
        most = max(each.lines for each in main)
        delivered = bool(ended) and f"{DONE} {ended['digest']}" in [each.text for each in main]
        share = min(1.0, most / ended["lines"]) if ended else 0.0
        noticed = round(brought.at - ended["at"], 2) if brought and ended else None
    return {
        "turns": len(main),
        "searches": sum(named(name, "tool_?search") for name, _ in calls),
        "side_calls": len(record.exchanges) - len(main),
        "polls": sum("resolve_task_status" in name and "result_offset" not in given for name, given in calls),
        "bytes_in": sum(each.bytes_in for each in main),
        "first_bytes": main[0].bytes_in,
        "tools": main[-1].tools,
        "tool_bytes": main[-1].tool_bytes,
        "delivered": delivered,
        "share": round(share, 3),
        "noticed": noticed,
        "identical": _longest_row(calls),
        "calls": [f"{name} {given}"[:300] for name, given in calls],
        "last": last[:300],
    }


def _longest_row(calls: list[tuple[str, str]]) -> int:
    longest = row = 0
    before: tuple[str, str] | None = None
    for call in calls:
        row = row + 1 if call == before else 1
        before, longest = call, max(longest, row)
    return longest


def _over(record: Record) -> bool:
    """Whether the model has said its last word."""
    said: list[Exchange] = [each for each in record.exchanges if each.main]
    return bool(said) and re.match(r"BENCH-(DONE|CANCELLED|FAILED)", said[-1].text) is not None


@asynccontextmanager
async def _server(place: Workplace, transport: str) -> AsyncGenerator[McpServer]:
    """How the host reaches the server; over HTTP it runs while the block does."""
    if transport == "stdio":
        yield place.stdio()
        return
    port = free_port()
    options = ["--transport", "streamable-http", "--host", "127.0.0.1", "--port", str(port)]
    with (place.folder / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *place.serve(*options), env={**os.environ, **place.env()}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield McpServer(url=f"http://127.0.0.1:{port}/mcp")
    finally:
        await _ended(process)


async def _without_terminal(launch: Launch, place: Workplace, limit: float) -> str:
    """Run it to its end; what went wrong."""
    with (place.folder / "stdout.log").open("wb") as out, (place.folder / "stderr.log").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *launch.command,
            cwd=place.work,
            env=dict(launch.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        code = await asyncio.wait_for(process.wait(), limit)
    except TimeoutError:
        return f"did not end within {limit:.0f} s"
    finally:
        await _ended(process)
    if launch.answers and (said := _answered(place)):
        return said
    complaint = (place.folder / "stderr.log").read_text(errors="replace")
    return f"exit code {code}: {complaint.strip()[-300:]}" if code else ""


def _answered(place: Workplace) -> str:
    """What the closing line of JSON says that went wrong."""
    lines = (place.folder / "stdout.log").read_text(errors="replace").splitlines()
    try:
        closing: Any = json.loads(lines[-1])
    except (ValueError, IndexError):
        return f"no closing line of JSON: {lines[-1:]}"
    return str(closing.get("error") or "")


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Make sure that a process and its group are gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_SECONDS)


def _leave(keep: Path, record: Record) -> None:

    entries = [asdict(each) for each in record.exchanges]
    (keep / "exchanges.json").write_text(json.dumps(entries, indent=1))
    (keep / "bodies.json").write_text(json.dumps(record.bodies, indent=1))
    (keep / "others.txt").write_text("\n".join(record.others))
