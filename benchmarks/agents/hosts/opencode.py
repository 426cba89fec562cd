"""opencode: `opencode run`."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.agents.hosts.base import KEY, MODEL, Launch, Order, quiet_environment
from benchmarks.agents.hosts.npm import NpmHost
from benchmarks.agents.workplace import SERVER

__all__ = ["Opencode"]


class Opencode(NpmHost):
    """`opencode run`."""

    name = pin = "opencode"
    title = "opencode `run`"
    http = True

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        (order.place.work / "opencode.json").write_text(json.dumps(_config(order)))
        env = quiet_environment(
            order.place,
            self.package.binaries,
            {
                "OPENCODE_DISABLE_AUTOUPDATE": "1",
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
                "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
                "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
            },
        )
        return Launch(command=[self.package.command, "run", "--model", f"bench/{MODEL}", order.prompt], env=env)


def _config(order: Order) -> dict[str, Any]:
    server: dict[str, Any] = {"type": "remote", "url": order.mcp.url, "enabled": True}
    if not order.mcp.url:
        environment = dict(order.mcp.env)
        server = {"type": "local", "command": list(order.mcp.command), "environment": environment, "enabled": True}
    return {
        "autoupdate": False,
        "share": "disabled",
        "model": f"bench/{MODEL}",
        "small_model": f"bench/{MODEL}",
        "provider": {
            "bench": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "bench",
                "options": {"baseURL": f"{order.model_url}/v1", "apiKey": KEY},
                "models": {
                    MODEL: {"name": MODEL, "tool_call": True, "limit": {"context": 1_000_000, "output": 32_000}}
                },
            }
        },
        "mcp": {SERVER: server},
        "permission": "allow",
    }
