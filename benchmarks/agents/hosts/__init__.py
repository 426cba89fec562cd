"""The hosts that are driven."""

from __future__ import annotations

from benchmarks.agents.hosts.base import Host
from benchmarks.agents.hosts.claude_code import ClaudeCode, ClaudeCodeTerminal
from benchmarks.agents.hosts.codex import Codex
from benchmarks.agents.hosts.frameworks import frameworks
from benchmarks.agents.hosts.gemini_cli import GeminiCli, QwenCode
from benchmarks.agents.hosts.opencode import Opencode

__all__ = ["HOSTS"]

HOSTS: dict[str, Host] = {
    host.name: host
    for host in (ClaudeCode(), ClaudeCodeTerminal(), Codex(), Opencode(), GeminiCli(), QwenCode(), *frameworks())
}
"""By name."""
