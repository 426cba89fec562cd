"""Claude Code: `claude -p`, and its terminal."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.agents.hosts.base import KEY, Launch, Order, quiet_environment
from benchmarks.agents.hosts.npm import NpmHost
from benchmarks.agents.terminal import check_terminal
from benchmarks.agents.workplace import SERVER

__all__ = ["ClaudeCode", "ClaudeCodeTerminal"]


class ClaudeCode(NpmHost):
    """`claude -p`."""

    name = pin = "claude-code"
    title = "Claude Code `-p`"
    http = True

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        options = ["-p", order.prompt, "--output-format", "json"]
        return Launch(command=self._command(order, *options), env=self._environment(order))

    def _command(self, order: Order, *options: str) -> list[str]:
        servers = order.place.work / "mcp.json"
        servers.write_text(json.dumps({"mcpServers": {SERVER: _server(order)}}))
        common = ["--mcp-config", str(servers), "--strict-mcp-config", "--allowedTools", f"mcp__{SERVER}"]
        return [self.package.command, *options, *common]

    def _environment(self, order: Order) -> dict[str, str]:
        return quiet_environment(
            order.place,
            self.package.binaries,
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


class ClaudeCodeTerminal(ClaudeCode):
    """Claude Code in a terminal, where it follows tasks itself."""

    name = "claude-code-terminal"
    title = "Claude Code, terminal"
    http = False

    def install(self) -> str:
        """See `Host`."""
        check_terminal()
        return super().install()

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        (order.place.home / ".claude.json").write_text(json.dumps(_first_start_done(order)))
        env = self._environment(order)
        del env["CI"]
        return Launch(command=self._command(order), env=env, keys=order.prompt)


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
