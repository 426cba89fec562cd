"""Gemini CLI and Qwen Code, which began as a copy of it: both without a terminal."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.agents.hosts.base import KEY, MODEL, Launch, Order, quiet_environment
from benchmarks.agents.hosts.npm import NpmHost
from benchmarks.agents.workplace import SERVER

__all__ = ["GeminiCli", "QwenCode"]


def _server(order: Order) -> dict[str, Any]:
    if order.mcp.url:
        return {"httpUrl": order.mcp.url, "trust": True}
    command, *arguments = order.mcp.command
    return {"command": command, "args": arguments, "env": dict(order.mcp.env), "trust": True}


class GeminiCli(NpmHost):
    """`gemini -p`."""

    name = pin = "gemini"
    title = "Gemini CLI `-p`"

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        folder = order.place.home / ".gemini"
        folder.mkdir()
        settings = {
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
            "mcpServers": {SERVER: _server(order)},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        env = quiet_environment(
            order.place,
            self.package.binaries,
            {
                "GEMINI_API_KEY": KEY,
                "GOOGLE_GEMINI_BASE_URL": order.model_url,
                "GEMINI_CLI_TRUST_WORKSPACE": "true",
                "GEMINI_CLI_NO_RELAUNCH": "true",
            },
        )
        return Launch(command=[self.package.command, "--yolo", "-m", MODEL, "-p", order.prompt], env=env)


class QwenCode(NpmHost):
    """`qwen -p`."""

    name = pin = "qwen"
    title = "Qwen Code `-p`"

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        folder = order.place.home / ".qwen"
        folder.mkdir()
        settings = {
            "security": {"auth": {"selectedType": "openai"}},
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "general": {"enableAutoUpdate": False, "disableAutoUpdate": True},
            "mcpServers": {SERVER: _server(order)},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        env = quiet_environment(
            order.place,
            self.package.binaries,
            {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{order.model_url}/v1", "OPENAI_MODEL": MODEL},
        )
        options = ["--yolo", "--auth-type", "openai", "-m", MODEL]
        return Launch(command=[self.package.command, *options, "-p", order.prompt], env=env)
