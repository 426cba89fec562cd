"""An existing tool of an `MCPServer` that asks whose call it is, run as a task: the SDK's own way to ask works."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from spec.channels import HttpChannel

from raincheck.config.settings import Settings
from raincheck.encryption.cipher import new_key
from raincheck.errors import ConfigurationError
from raincheck.mcp.sdk_host import Raincheck
from raincheck.operations.operation import Policy
from support.in_process import Peer, port_of


class Verifier(TokenVerifier):
    async def verify_token(self, token: str) -> AccessToken | None:
        name = token.partition("-")[0]
        return AccessToken(token=token, client_id="app", scopes=["read"], subject=name, claims={"tenant": f"{name}'s"})


def whose() -> dict[str, Any]:
    token = get_access_token()
    return {} if token is None else {"sub": token.subject, "tenant": (token.claims or {})["tenant"], "is": token.token}


def office(tmp_path: Path, **policy: Any) -> tuple[MCPServer[Any], Raincheck]:
    rc = Raincheck(
        tools="slow_*",
        store=tmp_path / "tasks.db",
        settings=Settings.model_validate({"encryption": {"keys": ["${SEAL_KEY}"]}, "execution": {"drain_seconds": 0}}),
        policy=Policy(mode="task", **policy),
    )
    auth = AuthSettings.model_validate(
        {"issuer_url": "https://i.example.com", "resource_server_url": None, "validate_token_resource": False}
    )
    server: MCPServer[Any] = MCPServer("whose", extensions=[rc], token_verifier=Verifier(), auth=auth)

    @server.tool()
    async def slow_whose(ctx: Context[Any, Any]) -> dict[str, Any]:
        return {**whose(), "region": (ctx.headers or {}).get("x-region")}

    @server.tool()
    def slow_in_a_thread() -> dict[str, Any]:
        return whose()

    @rc.operation(mode="inline", caller_token=bool(policy.get("caller_token")))
    def at_once() -> dict[str, Any]:
        """At once."""
        return whose()

    return server, rc


async def told(port: int, token: str, **more: str) -> list[Any]:
    """What each operation says to a caller with that token."""
    channel = HttpChannel(f"http://127.0.0.1:{port}/mcp")
    headers = {"authorization": f"Bearer {token}", **(more or {"x-region": f"region of {token}"})}
    peer = Peer(channel, modern=True)
    try:
        found: list[Any] = []
        for name in ("slow_whose", "slow_in_a_thread"):
            start = {"operation_type": name, "detail": "full"}
            ticket = (await peer.call("initiate_background_task", start, **headers)).result["structuredContent"]
            wait = {"task_ref": ticket["task_ref"], "wait_seconds": 10, "detail": "full"}
            ended = (await peer.call("resolve_task_status", wait, **headers)).result["structuredContent"]
            found.append(ended["result"] if ended["status"] == "completed" else ended["status"])
        return [*found, (await peer.call("at_once", {}, **headers)).result["structuredContent"]]
    finally:
        await channel.close()


async def test_an_existing_tool_has_its_callers_token_and_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAL_KEY", new_key())
    server, rc = office(tmp_path, caller_token=True, forward_headers=("X-Region",))
    async with port_of(server, rc) as port:
        # Both at once: neither sees the other's.
        seen = await asyncio.gather(*(told(port, token) for token in ("ada-secret", "bob-secret")))
    for name, each in zip(("ada", "bob"), seen, strict=True):
        bare = {"sub": name, "tenant": f"{name}'s", "is": f"{name}-secret"}
        assert each == [{**bare, "region": f"region of {name}-secret"}, bare, bare]
    kept = b"".join(each.read_bytes() for each in tmp_path.iterdir() if each.is_file())
    assert b"-secret" not in kept


async def test_an_existing_tool_that_does_not_ask_has_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAL_KEY", new_key())
    server, rc = office(tmp_path)
    async with port_of(server, rc) as port:
        assert await told(port, "ada-secret") == ["failed", {}, {}]


async def test_a_header_that_a_caller_did_not_send_is_absent_as_in_a_plain_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAL_KEY", new_key())
    server, rc = office(tmp_path, forward_headers=("X-Region",))
    async with port_of(server, rc) as port:
        assert await told(port, "ada-secret", other="not asked for") == [{"region": None}, {}, {}]


async def test_a_server_in_python_that_keeps_tokens_needs_a_key(tmp_path: Path) -> None:
    rc = Raincheck(store=tmp_path / "tasks.db")

    @rc.operation(forward_headers=("x-tenant",))
    def report() -> str:
        """Report."""
        return ""

    MCPServer("office", extensions=[rc])
    with pytest.raises(ConfigurationError, match=r"'report': forward_headers keeps secrets of callers.*\[encryption\]"):
        async with rc.running():
            pass
