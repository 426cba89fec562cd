"""A receiver of webhooks: a real HTTP server that verifies each message with the `standardwebhooks` library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from operations.http_server import Handler, Received, Server, answer, serving
from standardwebhooks import Webhook

from raincheck.webhooks.signing import secret_of
from support.waiting import PATIENCE

SECRET = "whsec_" + "cmFpbmNoZWNr" * 3
OTHER_SECRET = "whsec_" + "b3RoZXJzZWNy" * 3

FINE = answer(204)


@dataclass(kw_only=True)
class Receiver:
    """What came in, verified; and what is answered next."""

    server: Server
    secret: str
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ids: list[str] = field(default_factory=list[str])
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"{self.server.url}/hook"

    @property
    def host(self) -> str:
        """As `allow` names it."""
        return f"http://127.0.0.1:{self.server.port}"

    async def got(self, number: int, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """The messages, once there are so many."""
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(lambda: len(self.messages) >= number)
        return self.messages

    def of(self, task_ref: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["data"]["task_ref"] == task_ref]


@asynccontextmanager
async def receiving(*responses: bytes | Handler, secret: str | None = None, port: int = 0) -> AsyncGenerator[Receiver]:
    """A receiver that answers so in turn, and the last of it for ever. By default its secret is made of `SECRET`."""
    left = list(responses) or [FINE]

    async def handle(request: Received, writer: asyncio.StreamWriter) -> None:
        receiver.messages.append(Webhook(receiver.secret).verify(request.body, request.headers))
        receiver.ids.append(request.headers["webhook-id"])
        async with receiver.news:
            receiver.news.notify_all()
        response = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(response, bytes):
            writer.write(response)
        else:
            await response(request, writer)

    async with serving(handle, port) as server:
        receiver = Receiver(server=server, secret=secret or secret_of(SECRET, server.url))
        yield receiver


async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
