"""The wire form of Google's Gemini: `generateContent` and `streamGenerateContent`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.agents.json_access import child, children
from benchmarks.agents.model.conversation import Call, Conversation, Decision, Item, Tool, as_text

__all__ = ["answer", "events", "read"]


def read(body: Mapping[str, Any], *, stream: bool) -> Conversation:
    """The conversation in a request; whether it is streamed stands in the request's address."""
    offered: list[dict[str, Any]] = children(body, "tools")
    functions: list[dict[str, Any]] = [each for tool in offered for each in children(tool, "functionDeclarations")]
    return Conversation(
        stream=stream,
        tools=[
            Tool(
                name=each["name"],
                description=each.get("description") or "",
                schema=each.get("parametersJsonSchema") or each.get("parameters") or {},
            )
            for each in functions
        ],
        tool_bytes=len(json.dumps(offered, separators=(",", ":"), ensure_ascii=False).encode()) if offered else 0,
        items=[item for content in children(body, "contents") for item in _items(content)],
    )


def _items(content: Mapping[str, Any]) -> Iterator[Item]:
    said = "model" if content.get("role") == "model" else "user"
    for part in children(content, "parts"):
        if "functionCall" in part:
            call = child(part, "functionCall")
            yield Item(kind="call", name=call["name"], arguments=child(call, "args"))
        elif "functionResponse" in part:
            response = child(child(part, "functionResponse"), "response")
            yield Item(kind="tool", text=as_text(response.get("output", response)))
        elif part.get("text"):
            yield Item(kind=said, text=part["text"])


def answer(decision: Decision, model: str) -> dict[str, Any]:
    """The answer as one JSON object."""
    if isinstance(decision, Call):
        part: dict[str, Any] = {"functionCall": {"name": decision.tool.name, "args": dict(decision.arguments)}}
    else:
        part = {"text": decision.text}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 10, "totalTokenCount": 20}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model}


def events(decision: Decision, model: str) -> Iterator[tuple[str | None, Any]]:
    """The answer as events: name and data."""
    yield None, answer(decision, model)
