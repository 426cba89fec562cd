"""The operations that the agents call. Each writes to a clock file when it began and ended, and what it returned.

A result consists of lines of a number and a hash that no model can know: see `findings.LINE`.
"""

import asyncio
import hashlib
import json
import os
import secrets
import time

from raincheck import TaskContext

_PROGRESS_SECONDS = 2.0
_LINE_BYTES = 64


def _lines(count: int) -> list[str]:
    seed = secrets.token_hex(8)
    return [f"{number:05d} {hashlib.sha256(f'{seed} {number}'.encode()).hexdigest()[:57]}" for number in range(count)]


def _note(event: str, lines: list[str] | None = None) -> None:
    entry = {"event": event, "at": time.time(), "lines": len(lines or ())}
    if lines is not None:
        entry["digest"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    with open(os.environ["BENCH_CLOCK"], "a") as clock:
        clock.write(json.dumps(entry) + "\n")


def _returned(count: int) -> str:
    lines = _lines(count)
    _note("ended", lines)
    return "\n".join(lines)


async def _sleep(seconds: float, context: TaskContext | None = None) -> None:
    _note("began")
    end = time.monotonic() + seconds
    try:
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _PROGRESS_SECONDS) if context else left)
            if context:
                share = min(1.0, 1 - (end - time.monotonic()) / seconds)
                await context.progress(share, f"{share:.0%} done")
    except asyncio.CancelledError:
        _note("cancelled")
        raise


async def nap(seconds: float) -> str:
    await _sleep(seconds)
    return _returned(1)


async def work(seconds: float, context: TaskContext) -> str:
    await _sleep(seconds, context)
    return _returned(1)


async def confirm(context: TaskContext) -> str:
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    _note("began")
    answer = await context.elicit("Are you sure?", schema)
    _note(f"answered {json.dumps(dict(answer))}")
    return _returned(1)


async def listing(kilobytes: int) -> str:
    _note("began")
    await asyncio.sleep(3)
    return _returned(kilobytes * 1000 // _LINE_BYTES)
