"""raincheck on a FastMCP server (4.1 or newer), in two lines::

rc = Raincheck(tools="slow_*")
mcp.add_extension(rc)
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING, Any

from raincheck.composition.adapters import require_server
from raincheck.extras import missing_extra

if TYPE_CHECKING:
    from raincheck.mcp.fastmcp.host import Raincheck

__all__ = ["Raincheck"]

_OLDEST = (4, 1)


def require_fastmcp() -> None:
    """Check that FastMCP is there, and new enough.

    Raises:
        MissingDependency: It is not; the message names the command that installs it.
    """
    try:
        found = importlib.metadata.version("fastmcp")
    except importlib.metadata.PackageNotFoundError:
        found = ""
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise missing_extra("raincheck.fastmcp needs FastMCP 4.1 or newer", "fastmcp")
    require_server()


def __getattr__(name: str) -> Any:
    if name != "Raincheck":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_fastmcp()
    from raincheck.mcp.fastmcp.host import Raincheck

    globals()[name] = Raincheck
    return Raincheck
