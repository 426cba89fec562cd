"""Runs other people's clients as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["run", "seen_by"]

PROGRAMS = Path(__file__).parent / "programs"
_SECONDS = 90


async def run(
    command: Sequence[str | Path], *, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What the command prints; it and whatever it started is gone afterwards.

    Raises:
        AssertionError: It failed, or took too long.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        raise AssertionError(f"{command[-1]} did not end within {_SECONDS} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert process.returncode == 0, f"{out.decode()[-2000:]}\n{err.decode()[-4000:]}"
    return out.decode()


async def seen_by(runner: Path, program: str, office: Mapping[str, Any], *arguments: str) -> dict[str, Any]:
    """What a client's program saw of the server."""
    said = await run([runner, PROGRAMS / program, json.dumps(office), *arguments])
    return json.loads(said.splitlines()[-1])
