"""Python frameworks: each a program in `benchmarks/agents/frameworks`, run in an environment of its own.

The program is given one JSON object, and its last line is one. `frameworks/requirements.toml` pins the packages of each
by its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.agents.hosts.base import Host, Launch, Missing, Order, quiet_environment
from benchmarks.agents.hosts.npm import CACHE

__all__ = ["Framework", "frameworks"]

_FOLDER = Path(__file__).resolve().parents[1] / "frameworks"
_SECONDS = 600
_NATIVE = ("strands", "pydantic_ai")
_RESPONSES = ("openai_agents",)


class Framework(Host):
    """A framework; `native`: its own client of MCP tasks is switched on."""

    def __init__(self, program: str, packages: Sequence[str], *, native: bool = False) -> None:
        self._program = _FOLDER / f"{program}.py"
        self._packages = packages
        self._native = native
        self.name = f"{program.replace('_', '-')}{'-native' if native else ''}"
        self.title = f"{program.replace('_', ' ')}{', native tasks' if native else ''}"

    @property
    def _environment(self) -> Path:
        digest = hashlib.sha256("\n".join([sys.version, *self._packages]).encode()).hexdigest()[:10]
        return CACHE / f"{self._program.stem}-{digest}"

    def install(self) -> str:
        """See `Host`."""
        folder = self._environment
        CACHE.mkdir(exist_ok=True)
        with (CACHE / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
                self._run([sys.executable, "-m", "venv", "--clear", str(folder)])
                self._run([*pip, "--no-input", *self._packages])
                (folder / "made").touch()
        return self._packages[0].partition("==")[2] or self._packages[0]

    def _run(self, command: Sequence[str]) -> None:
        try:
            subprocess.run(command, check=True, timeout=_SECONDS, capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise Missing(f"{', '.join(self._packages)} cannot be installed: {said.strip()[-300:]}") from error

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        given = {
            "model_url": order.model_url,
            "wire": "responses" if self._program.stem in _RESPONSES else "chat",
            "mcp": order.mcp.as_json(),
            "prompt": order.prompt,
            "options": {"native_tasks": True} if self._native else {},
        }
        binaries = self._environment / "bin"
        command = [str(binaries / "python"), str(self._program), json.dumps(given)]
        env = quiet_environment(order.place, binaries, {"PYTHONDONTWRITEBYTECODE": "1"})
        return Launch(command=command, env=env, answers=True)


def frameworks() -> Iterator[Framework]:
    """All that are pinned and have a program."""
    pins = _FOLDER / "requirements.toml"
    if not pins.exists():
        return
    pinned: dict[str, list[str]] = tomllib.loads(pins.read_text())
    for name, packages in pinned.items():
        if (_FOLDER / f"{name}.py").exists():
            yield Framework(name, packages)
            if name in _NATIVE:
                yield Framework(name, packages, native=True)
