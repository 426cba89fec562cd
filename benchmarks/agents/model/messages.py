"""The wire form of Anthropic's Messages."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.agents.json_access import child, children
from benchmarks.agents.model.conversation import Call, Conversation, Decision, Item, Tool, as_text

__all__ = ["answer", "events", "read"]

_USAGE = {"input_tokens": 10, "output_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def read(body: Mapping[str, Any]) -> Conversation:
    """The conversation in a request."""
    offered: list[dict[str, Any]] = children(body, "tools")
    return Conversation(
        stream=bool(body.get("stream")),
        tools=[
            Tool(name=each["name"], description=each.get("description", ""), schema=each.get("input_schema") or {})
            for each in offered
        ],
        tool_bytes=len(json.dumps(offered, separators=(",", ":"), ensure_ascii=False).encode()) if offered else 0,
        items=[item for message in children(body, "messages") for item in _items(message)],
    )


def _items(message: Mapping[str, Any]) -> Iterator[Item]:
    content: Any = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else children(message, "content")
    said = "model" if message.get("role") == "assistant" else "user"
    for block in blocks:
        match block.get("type"):
            case "text":
                yield Item(kind=said, text=block.get("text", ""))
            case "tool_use":
                yield Item(kind="call", name=block["name"], arguments=child(block, "input"))
            case "tool_result":
                yield Item(kind="tool", text=as_text(block.get("content") or ""))
            case _:
                pass


def _block(decision: Decision) -> dict[str, Any]:
    if isinstance(decision, Call):
        arguments = dict(decision.arguments)
        return {
            "type": "tool_use",
            "id": f"toolu_{uuid.uuid4().hex[:24]}",
            "name": decision.tool.name,
            "input": arguments,
        }
    return {"type": "text", "text": decision.text}


def _message(decision: Decision, model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [_block(decision)],
        "stop_reason": "tool_use" if isinstance(decision, Call) else "end_turn",
        "stop_sequence": None,
        "usage": _USAGE,
    }


def answer(decision: Decision, model: str) -> dict[str, Any]:
    """The answer as one JSON object."""
    return _message(decision, model)


def events(decision: Decision, model: str) -> Iterator[tuple[str | None, Any]]:
    """The answer as events: name and data."""
    message = _message(decision, model)
    block = message["content"][0]
    if isinstance(decision, Call):
        opening: dict[str, Any] = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    else:
        opening, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    start: dict[str, Any] = {**message, "content": [], "stop_reason": None}
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    sequence: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": opening},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": _USAGE},
        {"type": "message_stop"},
    ]
    for event in sequence:
        yield event["type"], event
