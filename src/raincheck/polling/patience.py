"""How long a client waits for an answer before it gives up: known of some, set by the operator, learned of the others.

A held answer must arrive before its client hangs up. `Patience.seconds` says what is known of a client; a hang-up
teaches it (`hung_up`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

__all__ = ["KNOWN", "SHARE", "Client", "Known", "Patience"]

SHARE = 0.8
"""Which share of a client's patience an answer is held for: the rest is for the way, and for clocks that differ."""


class Client(NamedTuple):
    """Which client a request came from, by its own words.

    Attributes:
        name, version: Of its `clientInfo`, cut to 100 characters; empty where it gives none.
        transport: How it reaches this server.
        modern: Whether it speaks protocol 2026-07-28 or newer.
        session: What stands for its connection; None where each request is its own.
    """

    name: str = ""
    version: str = ""
    transport: Literal["stdio", "http"] = "stdio"
    modern: bool = False
    session: int | None = None


class Known(NamedTuple):
    """What is known of a client's patience without having met it.

    Attributes:
        name: Its `clientInfo.name`.
        seconds: How long it waits for an answer.
        source: Where that stands.
        transport: The transport for which it holds; None: all.
        modern: The protocol for which it holds (`Client.modern`); None: all.
    """

    name: str
    seconds: float
    source: str
    transport: Literal["stdio", "http"] | None = None
    modern: bool | None = None


KNOWN: tuple[Known, ...] = (
    Known("mcp", 5.0, "openai-agents 0.24: client_session_timeout_seconds = 5", modern=True),
    Known("claude-code", 60.0, "Claude Code 2.1.332 over HTTP: 60 s a request", transport="http"),
    Known("claude-code", 600.0, "Claude Code 2.1.332 over stdio", transport="stdio"),
    Known("opencode", 60.0, "opencode 1.18: 60 s a request"),
    Known("codex-mcp-client", 70.0, "Codex CLI 0.171: tool_timeout_sec"),
    Known("gemini-cli-mcp-client", 600.0, "Gemini CLI 0.61: timeout 600,000 ms"),
    Known("qwen-code-mcp-client", 600.0, "Qwen Code 0.24: timeout 600,000 ms"),
)
"""The start, before anything is set or learned."""


class Patience:
    """The patience of the clients of one server, in seconds.

    Args:
        given: What the operator set, by the client's name (`[polling.patience]`).
    """

    def __init__(self, given: Mapping[str, float]) -> None:
        self._given = given
        self._learned: dict[tuple[str, str, str], float] = {}

    async def seconds(self, client: Client, scope: str) -> float | None:
        """How long the client waits for an answer; None where nothing is known."""
        known = self._given.get(client.name)
        if known is None:
            known = next((each.seconds for each in KNOWN if _fits(each, client)), None)
        learned = self._learned.get((scope, client.name, client.version))
        return known if learned is None else learned if known is None else min(known, learned)

    def hung_up(self, client: Client, scope: str, *, after_seconds: float) -> None:
        """The client gave up on a held answer so long after it had asked."""
        self._learned[scope, client.name, client.version] = after_seconds


def _fits(known: Known, client: Client) -> bool:
    return (
        known.name == client.name
        and known.transport in (None, client.transport)
        and known.modern in (None, client.modern)
    )
