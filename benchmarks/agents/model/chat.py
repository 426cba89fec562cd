"""The wire form of OpenAI's Chat Completions."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.agents.json_access import child, children
from benchmarks.agents.model.conversation import Call, Conversation, Decision, Item, Tool, as_text

__all__ = ["answer", "events", "read"]

_USAGE = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}


def read(body: Mapping[str, Any]) -> Conversation:
    """The conversation in a request."""
    offered: list[dict[str, Any]] = children(body, "tools")
    functions = [each["function"] for each in offered if each.get("type") == "function"]
    return Conversation(
        stream=bool(body.get("stream")),
        tools=[
            Tool(name=each["name"], description=each.get("description") or "", schema=each.get("parameters") or {})
            for each in functions
        ],
        tool_bytes=len(json.dumps(offered, separators=(",", ":"), ensure_ascii=False).encode()) if offered else 0,
        items=[item for message in children(body, "messages") for item in _items(message)],
    )


def _items(message: Mapping[str, Any]) -> Iterator[Item]:
    text = as_text(message.get("content") or "")
    match message.get("role"):
        case "user":
            yield Item(kind="user", text=text)
        case "tool":
            yield Item(kind="tool", text=text)
        case "assistant":
            if text:
                yield Item(kind="model", text=text)
            for call in children(message, "tool_calls"):
                function = child(call, "function")
                yield Item(kind="call", name=function["name"], arguments=json.loads(function.get("arguments") or "{}"))
        case _:
            pass


def _message(decision: Decision) -> dict[str, Any]:
    if isinstance(decision, Call):
        function = {"name": decision.tool.name, "arguments": json.dumps(dict(decision.arguments))}
        call = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": decision.text}


def _reason(decision: Decision) -> str:
    return "tool_calls" if isinstance(decision, Call) else "stop"


def answer(decision: Decision, model: str) -> dict[str, Any]:
    """The answer as one JSON object."""
    choice = {"index": 0, "message": _message(decision), "finish_reason": _reason(decision), "logprobs": None}
    return {**_envelope(model, "chat.completion"), "choices": [choice], "usage": _USAGE}


def events(decision: Decision, model: str) -> Iterator[tuple[str | None, Any]]:
    """The answer as events: name and data."""
    envelope = _envelope(model, "chat.completion.chunk")
    message = _message(decision)
    for number, call in enumerate(children(message, "tool_calls")):
        call["index"] = number
    for delta, reason in ((message, None), ({}, _reason(decision))):
        yield None, {**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    yield None, {**envelope, "choices": [], "usage": _USAGE}
    yield None, "[DONE]"


def _envelope(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "object": kind, "created": int(time.time()), "model": model}
