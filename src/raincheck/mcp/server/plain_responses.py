"""Short answers of our own to HTTP requests that no MCP message is the answer to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import Send

from raincheck.domain.unicode_text import well_formed_json

Header = tuple[bytes, bytes]


async def json_answer(send: Send, status: int, document: Mapping[str, Any], headers: Iterable[Header] = ()) -> None:
    """A JSON document, not to be kept."""
    body = json.dumps(well_formed_json(document)).encode()
    own = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: int, message: str, *, retry_after: int | None = None) -> None:
    """A JSON-RPC error for a request that was not looked into; the connection ends, since its body may be unread."""
    error = {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": _INTERNAL if status >= 500 else _INVALID, "message": message},
    }
    later = [] if retry_after is None else [(b"retry-after", str(retry_after).encode())]
    await json_answer(send, status, error, [*later, (b"connection", b"close")])


_INVALID = -32600
_INTERNAL = -32603
