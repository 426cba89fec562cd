"""A host in a terminal: tmux holds it, types for it and reads its screen."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable

from benchmarks.agents.hosts.base import Launch, Missing
from benchmarks.agents.wire_facts import listed
from benchmarks.agents.workplace import Workplace

__all__ = ["check_terminal", "in_terminal"]

_READY_SECONDS = 60.0
_SETTLING_SECONDS = 2.0
_QUESTION = "requests your input"


def check_terminal() -> None:
    """Check that there is a tmux.

    Raises:
        Missing: There is none.
    """
    if shutil.which("tmux") is None:
        raise Missing("tmux is not on PATH")


class _Tmux:
    """A tmux server of its own, with one session."""

    def __init__(self) -> None:
        self._socket = f"bench-{uuid.uuid4().hex[:8]}"

    async def __call__(self, *words: str, env: dict[str, str] | None = None) -> str:
        process = await asyncio.create_subprocess_exec(
            "tmux", "-L", self._socket, *words, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode(errors="replace")


async def in_terminal(launch: Launch, place: Workplace, limit: float, over: Callable[[], bool]) -> str:
    """Start the host, type its keys once it shows a prompt and has the tools, and end it once `over`.

    Returns:
        What went wrong, "" where nothing did.
    """
    tmux = _Tmux()
    end = time.monotonic() + limit
    await tmux(
        "new-session", "-d", "-s", "host", "-x", "160", "-y", "50", "-c", str(place.work), *launch.command,
        env=dict(launch.env),
    )  # fmt: skip
    try:
        if not await _ready(tmux, place):
            return f"no prompt within {_READY_SECONDS:.0f} s: {(await tmux('capture-pane', '-p'))[-600:]}"
        await tmux("send-keys", "-l", launch.keys)
        await asyncio.sleep(1)
        await tmux("send-keys", "Enter")
        answered = False
        while not over():
            if time.monotonic() > end:
                return f"did not end within {limit:.0f} s"
            await asyncio.sleep(0.2)
            screen = await tmux("capture-pane", "-p", "-S", "-200")
            (place.folder / "screen.txt").write_text(screen)
            if _QUESTION in screen and not answered:
                answered = True
                await _accept(tmux)
        await asyncio.sleep(1)
        (place.folder / "screen.txt").write_text(await tmux("capture-pane", "-p", "-S", "-200"))
        return ""
    finally:
        await tmux("kill-server")


async def _accept(tmux: _Tmux) -> None:
    """Tick the one box of the dialog, and press its button."""
    for key in ("Space", "Down", "Enter"):
        await asyncio.sleep(0.5)
        await tmux("send-keys", key)


async def _ready(tmux: _Tmux, place: Workplace) -> bool:
    """Wait until the screen shows a prompt and no longer changes, and the server has listed its tools."""
    end, before, since = time.monotonic() + _READY_SECONDS, "", time.monotonic()
    while time.monotonic() < end:
        screen = await tmux("capture-pane", "-p")
        (place.folder / "screen.txt").write_text(screen)
        if screen != before:
            before, since = screen, time.monotonic()
        shown = ("❯" in screen or "> " in screen) and time.monotonic() - since > _SETTLING_SECONDS
        if shown and (listed(place.wire()) or time.monotonic() > end - _READY_SECONDS / 2):
            return True
        await asyncio.sleep(0.2)
    return False
