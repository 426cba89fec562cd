"""A way to DynamoDB on which single requests fare badly: their answers get lost, or Amazon refuses them."""

from __future__ import annotations

import asyncio
import json
import ssl
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, Self

from support.proxy import Listener

__all__ = ["Lose", "Pass", "Refuse", "Way"]


class Lose:
    """The request is carried out, and the connection is cut before its answer.

    Args:
        meanwhile: What happens between the two.
    """

    def __init__(self, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        self.meanwhile = meanwhile


class Pass:
    """The request is carried out and answered."""


class Refuse:
    """The request is not carried out: DynamoDB answers with an error.

    Args:
        code: Its code.
        members: Further members of the answer.
    """

    def __init__(self, code: str, message: str = "no", **members: Any) -> None:
        self.body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message, **members})


class Way(Listener):
    """Passes requests on, and counts them.

    Args:
        upstream: DynamoDB's port.
        tls: How TLS is spoken on this way, None where it is not.

    Attributes:
        plan: By an operation's name ("UpdateItem") what the next of its requests meet.
        requests: How many came, by operation.
    """

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self._upstream = upstream
        self._tls = tls
        self.plan: dict[str, deque[Lose | Pass | Refuse]] = {}
        self.requests: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self) -> str:
        """Its address."""
        return f"http{'' if self._tls is None else 's'}://127.0.0.1:{self.port}"

    def meet(self, operation: str, *events: Lose | Pass | Refuse) -> None:
        """What the next requests of an operation meet, one each."""
        self.plan[operation] = deque(events)

    @property
    def met(self) -> bool:
        """Whether all that was planned has happened."""
        return not any(self.plan.values())

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See `Listener.converse`."""
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            while True:
                head, body = await _message(reader)
                operation = _header(head, "x-amz-target").rpartition(".")[2]
                self.requests[operation] += 1
                planned = self.plan.get(operation)
                event = planned.popleft() if planned else None
                if isinstance(event, Refuse):
                    answer = event.body.encode()
                    lines = ["HTTP/1.1 400 Bad Request", "Content-Type: application/x-amz-json-1.0"]
                    lines += [f"Content-Length: {len(answer)}", f"x-amz-crc32: {zlib.crc32(answer)}", "", ""]
                    writer.write("\r\n".join(lines).encode() + answer)
                    await writer.drain()
                    continue
                back.write(head + body)
                await back.drain()
                head, body = await _message(there)
                if isinstance(event, Lose):
                    if event.meanwhile is not None:
                        await event.meanwhile()
                    writer.transport.abort()
                    return
                writer.write(head + body)
                await writer.drain()
        finally:
            back.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(_header(head, "content-length") or 0))


def _header(head: bytes, name: str) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""
