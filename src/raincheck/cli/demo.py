"""`raincheck demo`: real work behind tickets, with a `kill -9` in the middle; about twenty seconds."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from raincheck.demo.processes import DemoFailed
from raincheck.demo.scenario import DemoSettings, tell
from raincheck.demo.timeline import Timeline

_INTRODUCTION = """\
An agent orders five pieces of slow work from one MCP server and gets a ticket for each at once.
The server is killed with kill -9 in mid-work and started again. Every ticket must still lead to its result.
The agent, the server and the slow API are separate processes; nothing here is simulated. About 20 seconds.
"""

_NEXT = """\
All of it held. Read next:
  README.md                  connect Claude Code, Cursor or VS Code
  docs/quickstart.md         your own slow operation in five minutes
  docs/how-it-works.md       why the tickets survived
  docs/handle-tools.md       what the agent called"""


def main(settings: DemoSettings | None = None) -> int:
    """Run the demo; 0 if every promise held, else 1 with a line that names the broken one.

    Everything it started and wrote is gone when it returns, also on Ctrl-C.
    """
    show = Timeline(sys.stdout)
    show.line(_INTRODUCTION)
    try:
        with tempfile.TemporaryDirectory(prefix="raincheck-demo-") as folder:
            asyncio.run(_interruptible(show, Path(folder), settings or DemoSettings()))
    except DemoFailed as failed:
        show.line()
        show.say("demo", f"FAILED: {failed}", tone="bad")
        for line in failed.log[-15:]:
            show.line(f"          log | {line}", tone="quiet")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        show.say("demo", "stopped; every process and file of the demo is gone", tone="bad")
        return 1
    show.line()
    show.line(_NEXT)
    return 0


async def _interruptible(show: Timeline, folder: Path, settings: DemoSettings) -> None:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: with its processes."""
    scenario = asyncio.current_task()
    assert scenario is not None
    with contextlib.suppress(NotImplementedError, AttributeError):
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, scenario.cancel)
    await tell(show, folder, settings)
