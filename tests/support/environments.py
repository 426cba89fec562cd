"""Environments of their own for other people's software, made once under .tools/ and kept.

Where one cannot be made (no network, no node), the test that wants it skips with a line that says so, and fails in CI.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

__all__ = ["FASTMCP", "ROOT", "SDK_1", "install", "node_environment", "python_environment"]

ROOT = Path(__file__).parents[2]
_TOOLS = ROOT / ".tools"
_SECONDS = 400

FASTMCP = (
    "-e",
    "{root}[fastmcp]",
    "fastmcp==4.1.2",
    "fastmcp-tasks==4.1.2",
    "pytest>=8",
    "pytest-asyncio>=1.0",
    "pytest-timeout>=2.3",
    "psutil>=6",
)
"""What the environment of FastMCP is made of."""


SDK_1 = "mcp==1.30.0"
"""The newest SDK of the 1.x line."""


def install(folder: Path, *requirements: str) -> None:
    """Make a virtual environment there with these requirements.

    It has no pip of its own, and what it imports is compiled when it is: most of a library never is.
    """
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    _run([*pip, "install", "-q", "--disable-pip-version-check", "--no-input", "--no-compile", *requirements])


@functools.cache
def python_environment(name: str, *requirements: str) -> Path:
    """The Python of an environment with these requirements; `{root}` in one is this repository."""

    def make(folder: Path) -> None:
        install(folder, *(each.format(root=ROOT) for each in requirements))

    return _made(name, requirements, make) / "bin" / "python"


@functools.cache
def node_environment(name: str, *packages: str) -> Path:
    """A folder whose node_modules has these packages; the node in its `.bin`, where there is one, runs them."""

    def make(folder: Path) -> None:
        if shutil.which("npm") is None:
            raise OSError("npm is not on PATH")
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *packages], folder)

    return _made(name, packages, make)


def _made(name: str, contents: Sequence[str], make: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256("\n".join([sys.version, *contents]).encode()).hexdigest()[:10]
    folder = _TOOLS / f"{name}-{digest}"
    _TOOLS.mkdir(exist_ok=True)
    # Several pytest workers may want it at once.
    with (_TOOLS / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                make(folder)
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", None) or str(error)
                _cannot(f"the environment {name} ({', '.join(contents)}) cannot be made: {said.strip()[-500:]}")
            (folder / "made").touch()
    return folder


def _cannot(reason: str) -> None:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
