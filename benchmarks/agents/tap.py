"""Stands between a host and an MCP server on stdio, and keeps what both write: `tap.py LOG COMMAND…`.

Standard library alone, and as thin as can be: what goes through is not looked at before the run is over.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import IO


def _pump(source: IO[bytes], sink: IO[bytes], log: IO[bytes], lock: threading.Lock, sender: str) -> None:
    try:
        for line in iter(source.readline, b""):
            entry = {"at": time.time(), "from": sender, "line": line.decode(errors="replace").rstrip()}
            with lock:
                log.write(json.dumps(entry).encode() + b"\n")
                log.flush()
            sink.write(line)
            sink.flush()
    finally:
        with contextlib.suppress(OSError):
            sink.close()


def main() -> int:
    """Run the command until it ends; its exit code."""
    log_file, *command = sys.argv[1:]
    lock = threading.Lock()
    with (
        open(log_file, "ab") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        threading.Thread(target=_pump, args=(sys.stdin.buffer, server.stdin, log, lock, "host"), daemon=True).start()
        _pump(server.stdout, sys.stdout.buffer, log, lock, "server")
        return server.wait()


if __name__ == "__main__":
    raise SystemExit(main())
