"""The program of the operation `command` in a chaos run: `command.py HISTORY SECONDS`; it imports nothing of ours."""

from __future__ import annotations

import json
import os
import sys
import time

_TICK_SECONDS = 0.025


def main(history: str, seconds: float) -> None:
    """Take so many seconds, deaf to nothing but SIGKILL and SIGTERM."""
    file = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(event: str) -> None:
        own = {"ref": os.environ["RAINCHECK_TASK_REF"], "operation": "command", "attempt": 0, "pid": os.getpid()}
        os.write(file, (json.dumps({"event": event, **own, "at": time.monotonic()}) + "\n").encode())

    note("start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(_TICK_SECONDS)
        note("tick")
    note("end")
    print(json.dumps({"fence": 0, "attempt": 0, "pid": os.getpid(), "answer": None}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
