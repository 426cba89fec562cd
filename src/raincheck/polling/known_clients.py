"""Known clients: their names, and how long each waits for an answer."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Client(NamedTuple):
    """Which client a request came from, by its own words.

    Attributes:
        name, version: Of its `clientInfo`, cut to 100 characters; empty where it gives none.
        transport: How it reaches this server.
        modern: Whether it speaks protocol 2026-07-28 or newer.
        wants_progress: Whether the request carries a `progressToken`.
        session: Its connection; None where each request is its own.
    """

    name: str = ""
    version: str = ""
    transport: Literal["stdio", "http"] = "stdio"
    modern: bool = False
    wants_progress: bool = False
    session: object | None = None


class Known(NamedTuple):
    """What is known of a client's patience without having met it.

    Attributes:
        name: Its `clientInfo.name`; with a `*` at its end, how that begins.
        seconds: How long it waits for an answer, as it is installed.
        source: Where that stands.
        transport: The transport for which it holds; None: all.
        modern: The protocol for which it holds (`Client.modern`); None: all.
        wants_progress: The calls for which it holds (`Client.wants_progress`); None: all.
        shared: Whether more patient clients give the same name: one that has waited so long may be one of them.
    """

    name: str
    seconds: float
    source: str
    transport: Literal["stdio", "http"] | None = None
    modern: bool | None = None
    wants_progress: bool | None = None
    shared: bool = False


KNOWN: tuple[Known, ...] = (
    Known("claude-code", 60.0, "Claude Code 2.1.332, measured: 60.0 s (2.1.197: FMa, 60,000 ms)", transport="http"),
    Known(
        "claude-code",
        1800.0,
        "Claude Code 2.1.332: MCP_TOOL_TIMEOUT, about 28 h; idle limit 1,800 s",
        transport="stdio",
    ),
    Known("claude-ai", 60.0, "Claude Desktop: anthropics/claude-code issues 22542, 43791: 60 s, not to be set"),
    Known("opencode", 60.0, "opencode 1.18.33, measured: 60 s (TypeScript SDK, DEFAULT_REQUEST_TIMEOUT_MSEC)"),
    Known("codex-mcp-client", 60.0, "Codex: tool_timeout_sec, 60 in its documentation; 0.171.0 measured: 300 s"),
    Known("gemini-cli-mcp-client", 600.0, "Gemini CLI 0.61: MCP_DEFAULT_TIMEOUT_MSEC = 10 * 60 * 1e3"),
    Known(
        "qwen-cli-mcp-client-*",
        300.0,
        "Qwen Code 0.24.4, measured over HTTP: idle 300 s; the server's name follows",
    ),
    Known("Cline", 60.0, "Cline, src/shared/mcp.ts: DEFAULT_MCP_TIMEOUT_SECONDS = 60"),
    Known("@librechat/api-client", 30.0, "LibreChat: mcpServers.timeout, 30,000 ms in its documentation"),
    Known("google-adk", 5.0, "google-adk 2.13, StdioConnectionParams.timeout = 5.0", transport="stdio"),
    Known("google-adk", 300.0, "google-adk 2.13, sse_read_timeout = 60 * 5.0", transport="http"),
    # The Python SDK's default name. Several frameworks send it, and the least patient one decides.
    Known(
        "mcp",
        300.0,
        "pydantic-ai 2.68, mcp.py: read_timeout = 5 * 60; of those of that name only it asks for progress",
        modern=True,
        wants_progress=True,
    ),
    Known(
        "mcp",
        5.0,
        "openai-agents 0.24, agents/mcp/server.py: client_session_timeout_seconds = 5 (Strands 1.62: no limit)",
        modern=True,
        shared=True,
    ),
    Known("mcp", 30.0, "CrewAI 1.15 and LlamaIndex 0.6, measured: 30 s (LangChain: no limit)", modern=False),
)
"""The start, before anything is set or learned; the first that fits counts."""


def known_patience(client: Client) -> Known | None:
    """What is known of a client of that name; None where nothing is."""
    return next((each for each in KNOWN if _fits(each, client)), None)


def _fits(known: Known, client: Client) -> bool:
    start = known.name.removesuffix("*")
    return (
        (client.name == known.name if start == known.name else client.name.startswith(start))
        and known.transport in (None, client.transport)
        and known.modern in (None, client.modern)
        and known.wants_progress in (None, client.wants_progress)
    )
