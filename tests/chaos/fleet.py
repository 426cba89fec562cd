"""The processes of a run: servers and workers that are started again whenever they end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from chaos import clocks
from chaos.clocks import Clock
from chaos.ground import Ground

from support.proxy import TcpProxy
from support.servers.server import free_port
from support.serving import Process, Workplace

__all__ = ["Fleet", "Life", "Node", "Role"]

Role = Literal["server", "front", "worker"]
"""A server that runs tasks, a server that only accepts them, a worker that only runs them."""

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_FOR_EVER = 1e6
_UP = re.compile(r"^raincheck: serving on |worker \S+ started", re.MULTILINE)


@dataclass(kw_only=True, slots=True)
class Life:
    """One process of a node. Times are monotonic.

    Attributes:
        stop_requested: Whether it was an orderly end: SIGTERM.
        died: When it was killed, by us or by its own task; None while it lives, and after an orderly end.
        exit_code: Negative: the signal.
    """

    node: str
    pid: int
    began: float
    stop_requested: bool = False
    died: float | None = None
    exit_code: int | None = None


class Node:
    """One place for a process.

    Attributes:
        port: Where it listens, if it is a server; the same over restarts.
        clock: Its wall clock, where that can be set.
        proxy: Its way to the store, None where that is a file.
        lives: Its processes so far.
        up: Set while it serves.
        down_seconds: How long it stays down when it ends the next time.
    """

    def __init__(self, name: str, role: Role, place: Workplace, ground: Ground, clock: Clock | None) -> None:
        self.name = name
        self.role: Role = role
        self.port = 0 if role == "worker" else free_port()
        self.proxy = TcpProxy(ground.port) if ground.remote else None
        self.clock = clock
        self.lives: list[Life] = []
        self.up = asyncio.Event()
        self.down_seconds = 0.0
        self.failed_starts: list[str] = []
        self._place = place
        self._ground = ground
        self._process: Process | None = None
        self._killed_at: float | None = None

    async def run(self) -> None:
        """Keep a process there, until cancelled; the last one is ended with it."""
        while True:
            async with self._place.command(*self._arguments(), env=self._environment()) as process:
                came_up = await self._live(process)
            if not came_up:
                # The store may be away: whoever looks after servers starts them again, a little later.
                await asyncio.sleep(0.3)
            down, self.down_seconds = self.down_seconds, 0.0
            await asyncio.sleep(down)

    def _arguments(self) -> tuple[str, ...]:
        if self.role == "worker":
            return ("worker",)
        return ("serve", "--transport", "streamable-http", "--port", str(self.port))

    def _environment(self) -> dict[str, str]:
        env = self._ground.environment(self.proxy.port if self.proxy else 0)
        if self.role == "front":
            env["RAINCHECK_EXECUTION__MAX_CONCURRENCY"] = "0"
        if self.clock is not None:
            env |= self.clock.environment()
        return env

    async def _live(self, process: Process) -> bool:
        life = Life(node=self.name, pid=process.pid, began=time.monotonic())
        self.lives.append(life)
        self._process, self._killed_at = process, None
        coming_up = asyncio.create_task(self._come_up(process))
        try:
            life.exit_code = await process.exited(_FOR_EVER)
            if life.exit_code == -signal.SIGKILL:
                life.died = self._killed_at or time.monotonic()
            if not (came_up := self.up.is_set()):
                self.failed_starts.append(process.log[-500:])
            return came_up
        finally:
            coming_up.cancel()
            await asyncio.gather(coming_up, return_exceptions=True)
            self.up.clear()
            self._process = None

    async def _come_up(self, process: Process) -> None:
        while _UP.search(process.log) is None:
            await asyncio.sleep(0.02)
        self.up.set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process, if there is one."""
        if self._process is None:
            return
        if number is signal.SIGKILL:
            self._killed_at = time.monotonic()
        if number is signal.SIGTERM:
            self.lives[-1].stop_requested = True
        with contextlib.suppress(ProcessLookupError):
            self._process.signal(number)

    def hang(self, seconds: float) -> None:
        """Have the event loop of its process hang for so long (`chaos.operations`)."""
        if self._process is not None:
            (self._place.folder / f"hang-{self._process.pid}").write_text(str(seconds))
            self.signal(signal.SIGUSR1)

    async def ended(self, life: Life) -> None:
        """Wait until that process is gone; kill it when it will not go."""
        until = time.monotonic() + _STOP_SECONDS
        while self._process is not None and self.lives[-1] is life:
            if time.monotonic() > until:
                self.signal(signal.SIGKILL)
            await asyncio.sleep(0.02)


class Fleet:
    """All nodes of a run, with their proxies."""

    def __init__(self, place: Workplace, ground: Ground, roles: Mapping[str, Role]) -> None:
        self.nodes: dict[str, Node] = {}
        for name, role in roles.items():
            clock = None if clocks.missing() else Clock(place.folder / f"clock-{name}")
            self.nodes[name] = Node(name, role, place, ground, clock)

    @property
    def servers(self) -> list[Node]:
        """Those that take calls."""
        return [node for node in self.nodes.values() if node.role != "worker"]

    @property
    def lives(self) -> list[Life]:
        """Every process there was, in the order of their starts."""
        return sorted((life for node in self.nodes.values() for life in node.lives), key=lambda life: life.began)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """All of them while the block runs; it begins when each has started once."""
        async with AsyncExitStack() as stack:
            for node in self.nodes.values():
                if node.proxy is not None:
                    await stack.enter_async_context(node.proxy)
            keepers = [asyncio.create_task(node.run()) for node in self.nodes.values()]
            try:
                await self._all_up(keepers)
                yield
            finally:
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.gather(*keepers, return_exceptions=True)

    async def _all_up(self, keepers: list[asyncio.Task[None]]) -> None:
        waiting = asyncio.gather(*(node.up.wait() for node in self.nodes.values()))
        try:
            await asyncio.wait({waiting, *keepers}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    keeper.result()
            assert waiting.done(), [text for node in self.nodes.values() for text in node.failed_starts][-1:]
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def stop(self) -> None:
        """Tell every process to stop, in order."""
        for node in self.nodes.values():
            node.down_seconds = _FOR_EVER
        lives = [(node, node.lives[-1]) for node in self.nodes.values() if node.up.is_set()]
        for node, _ in lives:
            node.signal(signal.SIGTERM)
        await asyncio.gather(*(node.ended(life) for node, life in lives))
