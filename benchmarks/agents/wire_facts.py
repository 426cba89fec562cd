"""What a host says of itself over MCP, read from what the tap kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["facts"]

_META = "io.modelcontextprotocol/"


def facts(wire: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Its name and version, the protocol, what it declares, and the `_meta` keys of its calls."""
    found: dict[str, Any] = {"methods": [], "meta": [], "progress": False, "cancelled": 0, "notified": 0}
    for sender, message in wire:
        method, params = message.get("method"), message.get("params") or {}
        if sender == "server":
            if "protocolVersion" in (message.get("result") or {}):
                found["protocol"] = message["result"]["protocolVersion"]
            found["notified"] += method == "notifications/progress"
            continue
        meta: Mapping[str, Any] = params.get("_meta") or {}
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
