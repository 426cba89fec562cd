"""Claude Code: `claude -p`, and its terminal."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.agents.hosts.base import KEY, Launch, Order, quiet_environment
from benchmarks.agents.hosts.npm import package
from benchmarks.agents.workplace import SERVER

__all__ = ["ClaudeCode"]


class ClaudeCode:
    """`claude -p`, or with `interactive` the terminal."""

    def __init__(self, *, interactive: bool = False) -> None:
        self._interactive = interactive
        self._package = package("claude-code")
        self.name = "claude-code-terminal" if interactive else "claude-code"
        self.title = "Claude Code, terminal" if interactive else "Claude Code `-p`"
        self.transports = ("stdio", "http")

    def install(self) -> str:
        """See `Host`."""
        self._package.install()
        return self._package.version

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        servers = order.place.work / "mcp.json"
        servers.write_text(json.dumps({"mcpServers": {SERVER: _server(order)}}))
        if self._interactive:
            (order.place.home / ".claude.json").write_text(json.dumps(_first_start_done(order)))
        env = quiet_environment(
            order.place,
            self._package.binaries,
            {
                "ANTHROPIC_BASE_URL": order.model_url,
                "ANTHROPIC_API_KEY": KEY,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
                "DISABLE_TELEMETRY": "1",
                "DISABLE_ERROR_REPORTING": "1",
                "DISABLE_FEEDBACK_COMMAND": "1",
            },
        )
        if self._interactive:
            env.pop("CI")
        common = ["--mcp-config", str(servers), "--strict-mcp-config", "--allowedTools", f"mcp__{SERVER}"]
        mode = [] if self._interactive else ["-p", order.prompt, "--output-format", "json"]
        return Launch(
            command=[self._package.command, *mode, *common],
            env=env,
            interactive=self._interactive,
            keys=order.prompt if self._interactive else "",
        )


def _server(order: Order) -> dict[str, Any]:
    if order.mcp.url:
        return {"type": "http", "url": order.mcp.url}
    command, *arguments = order.mcp.command
    return {"type": "stdio", "command": command, "args": arguments, "env": dict(order.mcp.env)}


def _first_start_done(order: Order) -> dict[str, Any]:
    """The answers to what the terminal asks at its first start."""
    return {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(order.place.work): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}},
    }
