"""What a host says of itself over MCP, read from what the tap kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.agents.json_access import child

__all__ = ["facts", "listed"]

_META = "io.modelcontextprotocol/"


def facts(wire: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Its name and version, the protocol, what it declares, and the `_meta` keys of its calls."""
    found: dict[str, Any] = {"methods": [], "meta": [], "progress": False, "cancelled": 0, "notified": 0}
    for sender, message in wire:
        method, params = message.get("method"), child(message, "params")
        if sender == "server":
            if "protocolVersion" in child(message, "result"):
                found["protocol"] = message["result"]["protocolVersion"]
            found["notified"] += method == "notifications/progress"
            continue
        meta = child(params, "_meta")
        if method == "initialize":
            found["client"] = params.get("clientInfo")
            found["asked"] = params.get("protocolVersion")
            found["capabilities"] = params.get("capabilities")
        if f"{_META}clientInfo" in meta:
            found["client"] = meta[f"{_META}clientInfo"]
            found["protocol"] = meta.get(f"{_META}protocolVersion")
            found["capabilities"] = meta.get(f"{_META}clientCapabilities")
        if method and method not in found["methods"]:
            found["methods"].append(method)
        if method == "tools/call":
            found["progress"] = found["progress"] or "progressToken" in meta
            found["meta"] = sorted({*found["meta"], *meta})
        found["cancelled"] += method == "notifications/cancelled"
    return found


def listed(wire: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether the server has told its tools."""
    return any(sender == "server" and "tools" in child(message, "result") for sender, message in wire)
