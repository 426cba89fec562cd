"""raincheck: slow tools for AI agents. A ticket now, the result when it is ready.

Two lines make the tools of an MCP server background-capable::

    rc = Raincheck(tools="slow_*")
    mcp = MCPServer("reports", extensions=[rc], lifespan=rc.lifespan)

Everything is imported on first use, so that `import raincheck` needs no SDK and costs nothing.
"""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING, Any

from raincheck._version import __version__

if TYPE_CHECKING:
    from raincheck.config.loading import load_settings
    from raincheck.config.settings import Settings
    from raincheck.domain.caller import Caller
    from raincheck.domain.task import Task, TaskStatus
    from raincheck.errors import (
        ConfigurationError,
        MissingDependency,
        OperationFailed,
        RaincheckError,
        TaskFailure,
    )
    from raincheck.mcp.sdk_host import Raincheck
    from raincheck.operations.context import TaskCancelled, TaskContext
    from raincheck.operations.operation import Policy

__all__ = [
    "Caller",
    "ConfigurationError",
    "MissingDependency",
    "OperationFailed",
    "Policy",
    "Raincheck",
    "RaincheckError",
    "Settings",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskFailure",
    "TaskStatus",
    "__version__",
    "load_settings",
]

_HOMES = {
    "Caller": "raincheck.domain.caller",
    "ConfigurationError": "raincheck.errors",
    "MissingDependency": "raincheck.errors",
    "OperationFailed": "raincheck.errors",
    "Policy": "raincheck.operations.operation",
    "Raincheck": "raincheck.mcp.sdk_host",
    "RaincheckError": "raincheck.errors",
    "Settings": "raincheck.config.settings",
    "Task": "raincheck.domain.task",
    "TaskCancelled": "raincheck.operations.context",
    "TaskContext": "raincheck.operations.context",
    "TaskFailure": "raincheck.errors",
    "TaskStatus": "raincheck.domain.task",
    "load_settings": "raincheck.config.loading",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Raincheck":
        from raincheck.composition.adapters import require_server

        require_server()
    # What is imported stays: collections meanwhile would go through all of it several times, tens of ms each.
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = getattr(importlib.import_module(home), name)
    finally:
        if collecting:
            gc.enable()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
