"""The ids that hosts give their tool uses, as idempotency: a tool use that is sent again is the same task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from mcp.server.context import ServerRequestContext

from raincheck.mcp.surfaces.client_elicitation import client_call
from raincheck.mcp.wire.clients import client_of

_LONGEST = 1024


class ToolUseIds:
    """Finds the id of a call's tool use.

    Args:
        names: The keys of `_meta` that hold one (`[server] tool_use_ids`), each perhaps as `client:key`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [(client, key) for client, _, key in (name.rpartition(":") for name in names)]

    def key_of(self, ctx: ServerRequestContext[Any, Any], tool: str) -> str | None:
        """The digest of the id of the tool use, None where the client names none. It does not show the id."""
        meta: Any = client_call(ctx, tool).get("_meta")
        if not isinstance(meta, Mapping):
            return None
        for client, name in self._names:
            value: Any = meta.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if client not in ("", client_of(ctx).name):
                continue
            if isinstance(value, str) and 0 < len(value) <= _LONGEST:
                named = f"{name}\0{value}".encode(errors="surrogatepass")
                return hashlib.sha256(named).hexdigest()
        return None
