"""The scripted model: it does what the answers of the tools and their definitions tell it to do, and nothing else.

Its decisions depend on the conversation that it is sent alone, as a real model's do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.agents.json_access import child
from benchmarks.agents.model.conversation import Conversation, Decision, Item, Say
from benchmarks.agents.model.findings import digest, lines_in, objects_in
from benchmarks.agents.model.pages import is_preview, next_page
from benchmarks.agents.model.script import CANCELLED, DONE, FAILED, WAITING, Script, script_of
from benchmarks.agents.model.toolbox import Toolbox, is_search, named, unwrapped

__all__ = ["Obedient"]

_MOST_CALLS = 200
_TERMINAL = ("completed", "failed", "cancelled")
_WRONG = re.compile(r"\b(error|failed|timed? ?out|timeout|aborted|denied)\b", re.IGNORECASE)
_STOPPED = re.compile(r"\b(stopped|cancelled|canceled|killed)\b", re.IGNORECASE)


class Obedient:
    """Decides about one request.

    Args:
        conversation: The request.
        server: The name by which the host knows the MCP server.
    """

    def __init__(self, conversation: Conversation, server: str) -> None:
        self._server = server
        found = script_of(conversation.items)
        self._script = found[0] if found else None
        self._items = [unwrapped(item) for item in conversation.items[found[1] + 1 :]] if found else []
        self._tools = Toolbox(conversation.tools, self._items, server)

    def main(self) -> bool:
        """Whether the request belongs to the conversation of the script: side calls have no use for its tools."""
        return self._script is not None and (
            self._tools.find(self._script.operation) is not None or self._tools.searches()
        )

    def result_lines(self) -> list[str]:
        """The lines of the result that the model has been given so far."""
        return lines_in(item.text for item in self._items if item.kind in ("tool", "user"))

    def decide(self) -> Decision:
        """What the model does now."""
        script = self._script
        if script is None:
            return Say(text="ok")
        calls = [item for item in self._items if item.kind == "call" and not is_search(item)]
        if len(calls) > _MOST_CALLS:
            return Say(text=f"{FAILED} gave up after {_MOST_CALLS} calls")
        if not any(named(call.name, script.operation) for call in calls):
            return self._call(script.operation, script.arguments)
        return self._follow(script, calls)

    def _call(self, name: str, arguments: Mapping[str, Any], *, of_host: bool = False) -> Decision:
        return self._tools.call(name, arguments, of_host=of_host) or Say(text=f"{FAILED} no tool {name}")

    def _follow(self, script: Script, calls: Sequence[Item]) -> Decision:
        """Go on after what came since the last call; a search for tools is no call."""
        at = max(n for n, item in enumerate(self._items) if item.kind == "call" and not is_search(item))
        answers = [item.text for item in self._items[at + 1 :] if item.kind in ("tool", "user")]
        objects = [found for text in reversed(answers) for found in objects_in(text)]
        status = next((each for each in objects if "task_ref" in each and "status" in each), None)
        if status is not None and status["status"] not in _TERMINAL:
            return self._next_step(script, status)
        if (page := self._page(answers, calls)) is not None:
            return page
        if lines := self.result_lines():
            return Say(text=f"{DONE} {digest(lines)}")
        if status is not None:
            word = CANCELLED if status["status"] == "cancelled" else f"{FAILED} {status['status']}"
            return Say(text=f"{word} {json.dumps(status.get('error'))[:200]}")
        return self._without_status(script, "\n".join(answers), calls)

    def _without_status(self, script: Script, said: str, calls: Sequence[Item]) -> Decision:
        """Go on after an answer of the host's own: it follows a task itself, or something went wrong."""
        if script.then == "cancel":
            if calls[-1].name == "TaskStop":
                return Say(text=f"{CANCELLED if _STOPPED.search(said) else FAILED} {said[:200]}")
            if task := re.search(r"task_id[\W]{1,4}(\w+)", said):
                return self._call("TaskStop", {"task_id": task[1]}, of_host=True)
        return Say(text=f"{FAILED if _WRONG.search(said) else WAITING} {said[:200]}")

    def _next_step(self, script: Script, status: Mapping[str, Any]) -> Decision:
        ref, told = status["task_ref"], str(status.get("next_step") or "")
        if script.then == "cancel":
            return self._call("cancel_background_task", {"task_ref": ref})
        requests = child(status, "input_requests")
        if status["status"] == "input_required" and requests:
            responses = {key: {"action": "accept", "content": _content(each)} for key, each in requests.items()}
            return self._call("provide_task_input", {"task_ref": ref, "responses": responses})
        arguments: dict[str, Any] = {"task_ref": ref}
        if "after" in status:
            arguments["after"] = status["after"]
        tool = self._tools.find("resolve_task_status")
        advised = re.search(r"wait_seconds\W{0,6}(\d+)", told)
        advised = advised or re.search(r"wait_seconds \(up to (\d+)\)", tool.description if tool else "")
        if advised:
            arguments["wait_seconds"] = int(advised[1])
        return self._call("resolve_task_status", arguments)

    def _page(self, answers: Sequence[str], calls: Sequence[Item]) -> Decision | None:
        told = [item.text for item in self._items if item.kind in ("tool", "user")]
        objects = [found for text in told for found in objects_in(text)]
        large = next((each for each in objects if is_preview(each)), None)
        if large is None:
            return None
        ref = next((ref for each in objects if isinstance(ref := each.get("task_ref"), str)), "")
        return next_page(large, ref, "\n".join(answers), calls, self._tools, self._server)


def _content(request: Mapping[str, Any]) -> dict[str, Any]:
    """An answer that fits a question's schema."""
    schema = child(child(request, "params"), "requestedSchema")
    values: dict[str, Any] = {"boolean": True, "integer": 1, "number": 1, "string": "yes"}
    return {key: values.get(each.get("type"), "yes") for key, each in child(schema, "properties").items()}
