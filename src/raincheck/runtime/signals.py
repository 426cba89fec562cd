"""Stop signals of a process, and readiness reports to the service manager."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys


def stop_requested() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one ends the process at once, of which Ctrl-C tells."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def stop(signalled: int) -> None:
        told.set()
        if signalled == signal.SIGINT:
            with contextlib.suppress(OSError, ValueError):
                print("raincheck: stopping; Ctrl-C once more ends it at once", file=sys.stderr, flush=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return told


def notify(state: str) -> None:
    """Tell systemd how this process is (`READY=1`, `STOPPING=1`; sd_notify(3)), where it runs under systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A name that starts with @ is one in the abstract namespace, whose first byte is zero.
    name = f"\0{address[1:]}" if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(1)
        channel.sendto(state.encode(), name)
