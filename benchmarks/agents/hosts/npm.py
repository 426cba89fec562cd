"""Hosts from npm packages: each in a folder of its own under benchmarks/.hosts, installed once."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agents.hosts.base import Host, Missing

__all__ = ["CACHE", "NpmHost", "Package", "package"]

_HERE = Path(__file__).resolve().parent
CACHE = _HERE.parents[1] / ".hosts"
"""Where hosts and their environments are installed."""

_SECONDS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An npm package."""

    name: str
    version: str
    binary: str

    @property
    def folder(self) -> Path:
        """Where it is installed."""
        return CACHE / f"{self.name.replace('/', '_').lstrip('@')}-{self.version}"

    @property
    def binaries(self) -> Path:
        """The folder of its commands."""
        return self.folder / "node_modules" / ".bin"

    @property
    def command(self) -> str:
        """The host's command."""
        return str(self.binaries / self.binary)

    def install(self) -> None:
        """Install it unless it is there.

        Raises:
            Missing: npm is not there, or does not have it.
        """
        CACHE.mkdir(exist_ok=True)
        with (CACHE / f"{self.folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.folder / "made").exists():
                shutil.rmtree(self.folder, ignore_errors=True)
                self._make()
                (self.folder / "made").touch()

    def _make(self) -> None:
        if shutil.which("npm") is None:
            raise Missing("npm is not on PATH")
        self.folder.mkdir(parents=True)
        (self.folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", f"{self.name}@{self.version}"]
        try:
            subprocess.run(command, cwd=self.folder, check=True, timeout=_SECONDS, capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise Missing(f"{self.name} {self.version} cannot be installed: {said.strip()[-300:]}") from error


def package(host: str) -> Package:
    """The package of a host, as hosts.toml pins it."""
    with (_HERE / "hosts.toml").open("rb") as file:
        pinned = tomllib.load(file)[host]
    return Package(name=pinned["package"], version=pinned["version"], binary=pinned["binary"])


class NpmHost(Host):
    """A host from an npm package; `pin`: its table in hosts.toml."""

    pin: str

    def __init__(self) -> None:
        self.package = package(self.pin)

    def install(self) -> str:
        """See `Host`."""
        self.package.install()
        return self.package.version
