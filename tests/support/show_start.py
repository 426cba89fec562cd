"""Says what it sees of itself (test_warm_starts.py)."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
from typing import Any

import __main__


def _described(stream: Any) -> list[object]:
    stream.reconfigure(errors=stream.errors)  # which asks where in its file it is
    return [stream.name, stream.fileno(), stream.encoding, stream.errors, stream.line_buffering, stream.write_through]


def main() -> None:
    if sys.argv[1] == "raise":
        raise ValueError("so it was asked")
    if sys.argv[1] == "wait":
        print("waiting", flush=True)
        signal.pause()
    places = [int(each) for each in os.listdir("/proc/self/fd")]
    said = {
        "warm": "mcp" in sys.modules,
        "argv": sys.argv,
        "main": __main__.__file__,
        "first place": sys.path[0],
        "search": importlib.util.find_spec("found_by_search") is not None,
        "folder": os.getcwd(),
        "variable": os.environ.get("SHOWN"),
        "stdin": sys.stdin.read(),
        "leads a session": os.getsid(0) == os.getpid(),
        "parent": os.getppid(),
        "descriptors": [each for each in sorted(places) if os.path.exists(f"/proc/self/fd/{each}")],
        "threads": [thread.name for thread in threading.enumerate()],
        "streams": [_described(each) for each in (sys.stdin, sys.stdout, sys.stderr)],
        "SIGINT": getattr(signal.getsignal(signal.SIGINT), "__name__", None),
        "SIGTERM": getattr(signal.getsignal(signal.SIGTERM), "name", None),
    }
    print(json.dumps(said))
    print("and so it ends", file=sys.stderr)
    sys.exit(7)


if __name__ == "__main__":
    main()
