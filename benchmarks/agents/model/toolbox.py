"""The tools that a host offers: found by the name that the MCP server gave them, whatever the host puts before it.

Some hosts show a server's tools only to a model that looks for them. Claude Code then offers what was found; Qwen Code
describes it, and it is called through the host's `tool_call`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.agents.model.conversation import Call, Item, Tool
from benchmarks.agents.model.findings import objects_in

__all__ = ["Toolbox", "is_search", "named", "unwrapped"]

_THROUGH = "tool_call"
_SEARCH = r"tool_?search"
_RESOURCE = r"\w*read_?(?:mcp_?)?resource(?:_?tool)?"
_TRIES = 4


class Toolbox:
    """What the model can call.

    Args:
        offered: The tools of the request.
        items: The conversation.
        server: The name by which the host knows the MCP server.
    """

    def __init__(self, offered: Sequence[Tool], items: Sequence[Item], server: str) -> None:
        self._items = items
        self._server = server
        self._through = next((tool for tool in offered if tool.name == _THROUGH), None)
        self._tools = [*offered, *(self._described() if self._through else ())]

    def find(self, name: str) -> Tool | None:
        """The tool of this name, where the model sees it."""
        return next((tool for tool in self._tools if named(tool.name, name)), None)

    def resource_reader(self) -> str | None:
        """The name of the host's tool that reads resources, offered or only named."""
        if (tool := self.find(_RESOURCE)) is not None:
            return tool.name
        if not self.searches():
            return None
        texts = (item.text for item in self._items if item.kind in ("user", "tool"))
        found = (re.search(rf"^{_RESOURCE}$", text, re.IGNORECASE | re.MULTILINE) for text in texts)
        return next((match[0] for match in found if match), None)

    def searches(self) -> bool:
        """Whether there may be more tools than the model sees."""
        return self.find(_SEARCH) is not None

    def call(self, name: str, arguments: Mapping[str, Any], *, of_host: bool = False) -> Call | None:
        """A call of the tool of this name, or the search for it; None where there is no such tool."""
        tool = self.find(name)
        if tool is not None:
            if tool.through:
                assert self._through is not None
                return Call(tool=self._through, arguments={"name": tool.name, "arguments": dict(arguments)})
            return Call(tool=tool, arguments=arguments)
        search = self.find(_SEARCH)
        query = f"select:{name}" if of_host else f"+{self._server} {name}"
        asked = sum(item.kind == "call" and item.arguments.get("query") == query for item in self._items)
        if search is None or asked >= _TRIES:
            return None
        return Call(tool=search, arguments={"query": query})

    def _described(self) -> Iterator[Tool]:
        for item in self._items:
            if item.kind == "tool" and "<function>" in item.text:
                for found in objects_in(item.text):
                    if isinstance(found.get("name"), str) and "parametersJsonSchema" in found:
                        yield Tool(
                            name=found["name"],
                            description=str(found.get("description") or ""),
                            schema=found["parametersJsonSchema"],
                            through=True,
                        )


def named(offered: str, name: str) -> bool:
    """Whether a tool of the host is the server's tool of this name (a pattern)."""
    return re.search(rf"(?:^|[_.\-/:]){name}$", offered, re.IGNORECASE) is not None


def is_search(call: Item) -> bool:
    """Whether the call looks for tools."""
    return named(call.name, _SEARCH)


def unwrapped(item: Item) -> Item:
    """A call through `tool_call` as the call that it stands for."""
    if item.kind != "call" or item.name != _THROUGH:
        return item
    return replace(item, name=str(item.arguments.get("name")), arguments=item.arguments.get("arguments") or {})
