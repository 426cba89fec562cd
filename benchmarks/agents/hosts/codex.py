"""Codex CLI: `codex exec`."""

from __future__ import annotations

import json

from benchmarks.agents.hosts.base import KEY, MODEL, Launch, Order, quiet_environment
from benchmarks.agents.hosts.npm import NpmHost
from benchmarks.agents.workplace import SERVER

__all__ = ["Codex"]

_CONFIG = """\
model = "{model}"
model_provider = "bench"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
[analytics]
enabled = false
[feedback]
enabled = false
[model_providers.bench]
name = "bench"
base_url = "{url}/v1"
env_key = "BENCH_KEY"
wire_api = "responses"
[mcp_servers.{server}]
# The first request to the model waits for its tools.
required = true
startup_timeout_sec = 60
{reached}
"""


class Codex(NpmHost):
    """`codex exec`."""

    name = pin = "codex"
    title = "Codex CLI `exec`"

    def launch(self, order: Order) -> Launch:
        """See `Host`."""
        home = order.place.home / ".codex"
        home.mkdir()
        if order.mcp.url:
            reached = f"url = {json.dumps(order.mcp.url)}"
        else:
            command, *arguments = order.mcp.command
            pairs = ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in order.mcp.env.items())
            reached = f"command = {json.dumps(command)}\nargs = {json.dumps(arguments)}\nenv = {{ {pairs} }}"
        config = _CONFIG.format(model=MODEL, url=order.model_url, server=SERVER, reached=reached)
        (home / "config.toml").write_text(config)
        env = quiet_environment(order.place, self.package.binaries, {"CODEX_HOME": str(home), "BENCH_KEY": KEY})
        options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        return Launch(command=[self.package.command, "exec", *options, order.prompt], env=env)
