"""A private server that speaks S3: moto's, which emulates it in memory. There can be no real one here."""

from __future__ import annotations

import importlib.util
import sys
import urllib.error
import urllib.request

from support.servers.dynamodb import CREDENTIALS
from support.servers.server import Server

__all__ = ["CREDENTIALS", "S3Server"]


class S3Server(Server):
    """Its buckets are gone with it."""

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here, or None."""
        there = importlib.util.find_spec("moto") and importlib.util.find_spec("flask")
        return None if there else "moto[server] (pip install 'moto[server]')"

    @property
    def url(self) -> str:
        """See `Server.url`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """See `Server.start`."""
        self._run([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)])
        self._wait(self._answers)

    def make_bucket(self, name: str) -> None:
        """A new bucket; moto asks nobody who they are."""
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False
