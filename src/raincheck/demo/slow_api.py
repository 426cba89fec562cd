"""A slow HTTP API for the demo, a process of its own: `POST /reports` answers after twelve seconds.

It keeps one report for each `Idempotency-Key`, as a careful API does, and counts what it was asked and what it built,
so that the demo can prove how often the work was done. Its first line on stdout is the address it listens on.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Report:
    """One report in the making: every request for it waits for the same one."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.done = threading.Event()

    def build(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self.done.set)
        timer.daemon = True
        timer.start()


class _Api(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seconds = seconds
        self._lock = threading.Lock()
        self._reports: dict[str, _Report] = {}
        self._requests: Counter[str] = Counter()
        self._built: Counter[str] = Counter()

    def report(self, topic: str, key: str) -> _Report:
        """The report of that key, begun now if it was not asked for before."""
        with self._lock:
            self._requests[topic] += 1
            report = self._reports.get(key)
            if report is None:
                report = self._reports[key] = _Report(topic)
                self._built[topic] += 1
                report.build(self.seconds)
            return report

    def counts(self) -> dict[str, dict[str, int]]:
        """How often each topic was asked for, and how many reports on it were begun."""
        with self._lock:
            return {"requests": dict(self._requests), "built": dict(self._built)}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that was killed hangs up; that is part of the demo."""


class _Handler(BaseHTTPRequestHandler):
    server: _Api  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        if self.path == "/counts":
            self._answer(200, self.server.counts())
        else:
            self._answer(404, {"error": "there is only /reports and /counts"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            topic = str(json.loads(body)["topic"])
        except (ValueError, KeyError, TypeError):
            self._answer(400, {"error": 'the body must be {"topic": "…"}'})
            return
        report = self.server.report(topic, self.headers.get("Idempotency-Key") or object().__repr__())
        report.done.wait()
        self._answer(200, {"topic": report.topic, "pages": 42, "seconds": self.server.seconds})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the demo tells the scenario."""


def main() -> int:
    """Serve until stdin ends, which it does when the demo ends, however it ends."""
    parser = argparse.ArgumentParser(prog="python -m raincheck.demo.slow_api")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long a report takes")
    api = _Api(parser.parse_args().seconds)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{api.server_address[1]}", flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
