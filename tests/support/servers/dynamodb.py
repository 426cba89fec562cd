"""A private DynamoDB: the emulator of `moto`, which answers one request after the other."""

from __future__ import annotations

import importlib.util
import sys

from support.servers.server import Server

__all__ = ["CREDENTIALS", "DynamoDBServer"]

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}
"""What a client of it has in its environment; the emulator takes anything."""

# Its own program answers in threads, and then two conditional writes may both find their condition true.
_PROGRAM = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

WSGIRequestHandler.protocol_version = "HTTP/1.1"
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""


class DynamoDBServer(Server):
    """The emulator; what it holds is gone with its process, so faults freeze it instead of killing it."""

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here, or None."""
        return None if importlib.util.find_spec("moto") else "moto (PyPI: moto[server])"

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """See `Server.start`."""
        self._run([sys.executable, "-c", _PROGRAM, str(self.port)])
        self._wait(self._listens)
