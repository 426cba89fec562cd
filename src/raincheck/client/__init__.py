"""For agents and scripts: drivers that do the polling. Loads no store, and works beside mcp 1.x too.

- `TaskPoller` runs operations through the handle tools, over any session that can call tools.
- `TasksExtension` stands behind an unchanged `call_tool` of the SDK's `Client` (mcp 2.x).
- `connect` opens a session that connects anew; `raincheck.client.sync` is the same without asyncio.

Everything is imported on first use: only `TasksExtension`, `connect` and `steady_http` need mcp 2.x.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raincheck.client.errors import (
        BadAnswer,
        ClientError,
        ConnectionLost,
        InputNeeded,
        TaskWasCancelled,
        WaitTimedOut,
    )
    from raincheck.client.http import steady_http
    from raincheck.client.models import TaskHandle, TaskResult, TaskView
    from raincheck.client.policy import PollingPolicy
    from raincheck.client.poller import TaskPoller
    from raincheck.client.reconnecting import ReconnectingSession
    from raincheck.client.tasks_extension import TasksExtension
    from raincheck.client.transports import connect

__all__ = [
    "BadAnswer",
    "ClientError",
    "ConnectionLost",
    "InputNeeded",
    "PollingPolicy",
    "ReconnectingSession",
    "TaskHandle",
    "TaskPoller",
    "TaskResult",
    "TaskView",
    "TaskWasCancelled",
    "TasksExtension",
    "WaitTimedOut",
    "connect",
    "steady_http",
]

_HOMES = {
    "BadAnswer": "errors",
    "ClientError": "errors",
    "ConnectionLost": "errors",
    "InputNeeded": "errors",
    "PollingPolicy": "policy",
    "ReconnectingSession": "reconnecting",
    "TaskHandle": "models",
    "TaskPoller": "poller",
    "TaskResult": "models",
    "TaskView": "models",
    "TaskWasCancelled": "errors",
    "TasksExtension": "tasks_extension",
    "WaitTimedOut": "errors",
    "connect": "transports",
    "steady_http": "http",
}
_NEED_THE_SDK = frozenset({"TasksExtension", "steady_http"})


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _NEED_THE_SDK and importlib.util.find_spec("mcp_types") is None:
        from raincheck.extras import missing_extra

        raise missing_extra(f"raincheck.client.{name} needs the mcp SDK 2.x", "server")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
