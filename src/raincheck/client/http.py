"""Streamable HTTP that outlives its server's restarts. Needs mcp 2.x.

The SDK's own transport ends the whole client when one request cannot be sent. This one waits for the server where
nothing was sent yet, sends again what may be sent twice, and otherwise fails the one request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED

from raincheck.client.retries import backoff

logger = logging.getLogger(__name__)

_METHOD_HEADER = "mcp-method"
_REPEATABLE = frozenset(
    {"server/discover", "ping", "tools/list", "tasks/get", "tasks/update", "tasks/cancel", "tasks/result", "tasks/list"}
)
_GATEWAY_ERRORS = frozenset({502, 503, 504})
# The SDK's own: a server may hold a response stream open.
_TIMEOUT = httpx2.Timeout(30.0, read=300.0)


class SteadyClient(httpx2.AsyncClient):
    """An HTTP client for MCP that turns a lost connection into a JSON-RPC error of the one request.

    Args:
        outage_seconds: How long a request waits for a server that does not come back.
        options: As of `httpx2.AsyncClient`.
    """

    def __init__(self, *, outage_seconds: float = 60.0, **options: Any) -> None:
        options.setdefault("timeout", _TIMEOUT)
        super().__init__(**options)
        self._outage = outage_seconds

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request; the answer, or a 503 with a JSON-RPC error where there is none."""
        until = time.monotonic() + self._outage
        repeatable = request.headers.get(_METHOD_HEADER) in _REPEATABLE
        attempt = 0
        while True:
            attempt += 1
            last = time.monotonic() + backoff(attempt) > until
            try:
                response = await self._sent(request, options)
                if last or not repeatable or response.status_code not in _GATEWAY_ERRORS:
                    return response
                await response.aclose()
            except httpx2.TransportError as error:
                # Where the connection was not even made, nothing was sent.
                safe = repeatable or isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                if last or not safe:
                    return _no_answer(request, error)
                logger.info("no connection, trying again in %.1f s: %s", backoff(attempt), type(error).__name__)
            await asyncio.sleep(backoff(attempt))

    async def _sent(self, request: httpx2.Request, options: Mapping[str, Any]) -> httpx2.Response:
        response = await super().send(request, **options)
        if response.headers.get("content-type", "").startswith("application/json"):
            # Read here, so that a connection lost in mid-body is noticed where it can be mended.
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response


@asynccontextmanager
async def steady_http(
    url: str, *, headers: Mapping[str, str] | None = None, outage_seconds: float = 60.0, **options: Any
) -> AsyncGenerator[Any]:
    """A transport for the SDK's client that outlives restarts: `Client(steady_http(url))` instead of `Client(url)`.

    Args:
        url: The server's address.
        headers: Sent with every request, such as `Authorization`.
        outage_seconds: How long a request waits for a server that does not come back.
        options: More options of `httpx2.AsyncClient`, such as `auth`.
    """
    async with (
        SteadyClient(outage_seconds=outage_seconds, headers=dict(headers or {}), **options) as http,
        streamable_http_client(url, http_client=http) as streams,
    ):
        yield streams


def _no_answer(request: httpx2.Request, error: httpx2.TransportError) -> httpx2.Response:
    told = {"code": CONNECTION_CLOSED, "message": f"no answer from the server ({type(error).__name__})"}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": told})
    return httpx2.Response(503, headers={"content-type": "application/json"}, text=body, request=request)
