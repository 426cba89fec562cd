"""The wire form of OpenAI's Responses."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.agents.json_access import children
from benchmarks.agents.model.conversation import Call, Conversation, Decision, Item, Tool, as_text

__all__ = ["answer", "events", "read"]

_USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 10,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 20,
}


def read(body: Mapping[str, Any]) -> Conversation:
    """The conversation in a request."""
    offered: list[dict[str, Any]] = children(body, "tools")
    given: Any = body.get("input")
    entries = [{"role": "user", "content": given}] if isinstance(given, str) else children(body, "input")
    return Conversation(
        stream=bool(body.get("stream")),
        tools=[tool for each in offered for tool in _tools(each, None)],
        tool_bytes=len(json.dumps(offered, separators=(",", ":"), ensure_ascii=False).encode()) if offered else 0,
        items=[item for entry in entries for item in _items(entry)],
    )


def _tools(offered: Mapping[str, Any], namespace: str | None) -> Iterator[Tool]:
    if offered.get("type") == "namespace":
        for each in children(offered, "tools"):
            yield from _tools(each, offered.get("name"))
    elif "name" in offered:
        yield Tool(
            name=offered["name"],
            description=offered.get("description") or "",
            schema=offered.get("parameters") or {},
            namespace=namespace,
        )


def _items(entry: Mapping[str, Any]) -> Iterator[Item]:
    match entry.get("type", "message"):
        case "message":
            said = "model" if entry.get("role") == "assistant" else "user"
            yield Item(kind=said, text=as_text(entry.get("content") or ""))
        case "function_call":
            yield Item(kind="call", name=entry["name"], arguments=json.loads(entry.get("arguments") or "{}"))
        case "function_call_output":
            yield Item(kind="tool", text=as_text(entry.get("output") or ""))
        case _:
            pass


def _output(decision: Decision) -> dict[str, Any]:
    if isinstance(decision, Call):
        namespace = {"namespace": decision.tool.namespace} if decision.tool.namespace else {}
        return {
            "type": "function_call",
            "id": f"fc_{uuid.uuid4().hex[:24]}",
            "call_id": f"call_{uuid.uuid4().hex[:24]}",
            "name": decision.tool.name,
            **namespace,
            "arguments": json.dumps(dict(decision.arguments)),
            "status": "completed",
        }
    return {
        "type": "message",
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": decision.text, "annotations": []}],
    }


def _response(model: str, output: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{uuid.uuid4().hex[:24]}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": model,
        "output": output,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "usage": _USAGE if status == "completed" else None,
    }


def answer(decision: Decision, model: str) -> dict[str, Any]:
    """The answer as one JSON object."""
    return _response(model, [_output(decision)], "completed")


def events(decision: Decision, model: str) -> Iterator[tuple[str | None, Any]]:
    """The answer as events: name and data."""
    output = _output(decision)
    complete = _response(model, [output], "completed")
    begun: dict[str, Any] = {**complete, "status": "in_progress", "output": [], "usage": None}
    at = {"output_index": 0, "item_id": output["id"]}
    sequence: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    if isinstance(decision, Call):
        opening = {**output, "arguments": "", "status": "in_progress"}
        sequence += [
            {"type": "response.output_item.added", "output_index": 0, "item": opening},
            {"type": "response.function_call_arguments.delta", **at, "delta": output["arguments"]},
            {
                "type": "response.function_call_arguments.done",
                **at,
                "arguments": output["arguments"],
                "name": output["name"],
            },
        ]
    else:
        part = output["content"][0]
        opening: dict[str, Any] = {**output, "content": [], "status": "in_progress"}
        inside = {**at, "content_index": 0}
        sequence += [
            {"type": "response.output_item.added", "output_index": 0, "item": opening},
            {"type": "response.content_part.added", **inside, "part": {**part, "text": ""}},
            {"type": "response.output_text.delta", **inside, "delta": decision.text, "logprobs": []},
            {"type": "response.output_text.done", **inside, "text": decision.text, "logprobs": []},
            {"type": "response.content_part.done", **inside, "part": part},
        ]
    sequence += [
        {"type": "response.output_item.done", "output_index": 0, "item": output},
        {"type": "response.completed", "response": complete},
    ]
    for number, event in enumerate(sequence):
        yield event["type"], {**event, "sequence_number": number}
