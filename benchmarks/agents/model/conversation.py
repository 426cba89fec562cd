"""What a model is sent and what it answers, whichever wire form carries it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

__all__ = ["Call", "Conversation", "Decision", "Item", "Say", "Tool", "as_text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A tool that the host offers.

    Attributes:
        namespace: The group it stands in, where the wire form has groups.
        through: It was only described; the host has another tool that calls it.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    namespace: str | None = None
    through: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One entry of the conversation.

    Attributes:
        kind: Who speaks: the user (or the host in the user's place), the model, the model by a call, or a tool.
        text: What is said; the whole answer of a tool as text.
        name: Of a call: its tool.
        arguments: Of a call.
    """

    kind: Literal["user", "model", "call", "tool"]
    text: str = ""
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """One request to the model.

    Attributes:
        stream: Whether the answer is wanted as events.
        tools: The tools offered.
        tool_bytes: The size of their definitions, as compact JSON.
        items: The conversation so far.
    """

    stream: bool
    tools: Sequence[Tool]
    tool_bytes: int
    items: Sequence[Item]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """The model calls a tool."""

    tool: Tool
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Say:
    """The model ends its turn with a text."""

    text: str


Decision = Call | Say


def as_text(value: Any) -> str:
    """A tool's answer as one text: its text blocks, or the JSON of what is no text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_block_text(block) for block in cast("list[Any]", value))
    return json.dumps(value, ensure_ascii=False)


def _block_text(block: Any) -> str:
    found = cast("dict[str, Any]", block) if isinstance(block, dict) else {}
    return str(found["text"]) if "text" in found else as_text(block)
