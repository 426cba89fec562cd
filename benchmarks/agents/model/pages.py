"""How the model reads a large result: page after page, by the tool that the preview's hint names or the host offers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.agents.model.conversation import Call, Item
from benchmarks.agents.model.findings import objects_in
from benchmarks.agents.model.toolbox import Toolbox

__all__ = ["is_preview", "next_page"]

_DEFAULT_LENGTH = 65536


def is_preview(found: Mapping[str, Any]) -> bool:
    """Whether an object is the preview of a large result."""
    return found.get("truncated") is True and "preview" in found


def next_page(
    large: Mapping[str, Any], task_ref: str, last: str, calls: Sequence[Item], tools: Toolbox, server: str
) -> Call | None:
    """The call that reads the next page; None once all is read, or where no tool can read it.

    Args:
        large: The preview.
        task_ref: Of the task, "" where the model was never told.
        last: The answer that the model was given last.
        calls: The calls so far.
        tools: The tools.
        server: The MCP server's name, for the tools that want it.
    """
    told = str(large.get("next_step") or "")
    if "result_offset" in told:
        begun = any("result_offset" in call.arguments for call in calls)
        offset = _next_offset(last if begun else told, begun=begun)
        ref = task_ref or str(large.get("resource", "///")).split("/")[3]
        return None if offset is None else tools.call("resolve_task_status", {"task_ref": ref, "result_offset": offset})
    reader = tools.resource_reader()
    if reader is None:
        return None
    read = sum("offset=" in str(call.arguments.get("uri", "")) for call in calls)
    wanted = re.search(r"length=(\d+)", told)
    length = int(wanted[1]) if wanted else _DEFAULT_LENGTH
    if read * length >= int(large["bytes"]):
        return None
    arguments = {"server": server, "uri": f"{large['resource']}?offset={read * length}&length={length}"}
    tool = tools.find(reader)
    if tool is not None and "server" not in json.dumps(tool.schema):
        arguments.pop("server")
    return tools.call(reader, arguments, of_host=True)


def _next_offset(told: str, *, begun: bool) -> int | None:
    """The offset that a hint or a page tells to read next; a hint that names none means the beginning."""
    for found in objects_in(told):
        for key in ("next_offset", "next_result_offset"):
            if isinstance(found.get(key), int):
                return found[key]
    wanted = re.search(r"result_offset\W{0,6}(\d+)", told)
    return int(wanted[1]) if wanted else None if begun else 0
