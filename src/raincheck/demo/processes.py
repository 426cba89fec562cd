"""The processes of the demo: started, watched, killed for real, and surely ended."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_ADDRESS = re.compile(r"http://\S+")


class DemoFailed(Exception):
    """A promise did not hold.

    Attributes:
        log: The last lines of the process that it concerns.
    """

    def __init__(self, message: str, *, log: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.log = tuple(log)


def demand(holds: bool, otherwise: str) -> None:
    """Raise unless it holds.

    Raises:
        DemoFailed: It does not.
    """
    if not holds:
        raise DemoFailed(otherwise)


class Child:
    """A process that says on one of its lines where it listens.

    Attributes:
        url: That address.
        log: The last lines it wrote.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.url = ""
        self.log: deque[str] = deque(maxlen=40)
        self._process = process
        self._listening = asyncio.Event()
        streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
        self._readers = [asyncio.create_task(self._read(stream)) for stream in streams]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def listening(self) -> None:
        """Wait for its address.

        Raises:
            DemoFailed: It ended, or said nothing in time.
        """
        said = asyncio.create_task(self._listening.wait())
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({said, ended}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            said.cancel()
            ended.cancel()
        if not self._listening.is_set():
            code = self._process.returncode
            why = f"did not start within {_START_SECONDS:g} s" if code is None else f"ended with exit code {code}"
            raise DemoFailed(f"{self.name} {why}", log=self.log)

    async def kill(self) -> None:
        """`kill -9`: it gets no chance to tidy up."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, and make it end."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        # Something that it started may hold its streams open; they are not read on.
        await asyncio.wait(self._readers, timeout=1.0)
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while line := (await stream.readline()).decode(errors="replace"):
            self.log.append(line.rstrip())
            if not self.url and (found := _ADDRESS.search(line)):
                self.url = found[0]
                self._listening.set()


@asynccontextmanager
async def child(
    name: str, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> AsyncGenerator[Child]:
    """Run a process while the block runs; it listens when the block begins and is gone after it.

    Raises:
        DemoFailed: It did not come up.
    """
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=folder,
        env=dict(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C in the terminal is for the demo, which ends its processes in order.
        process_group=0,
    )
    running = Child(name, process)
    try:
        await running.listening()
        yield running
    finally:
        await running.stop()
