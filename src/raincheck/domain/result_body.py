"""The body of a result: what of it is kept as bytes, and how value and tool result come of the bytes again.

Server and drivers share this: a reader of the whole body has the very result that the call would have returned.

=============  ====================================================  ===========================================
form           the body                                              shape
=============  ====================================================  ===========================================
`text`         the text, in UTF-8                                    "wrapped": `structuredContent` holds it too
`json`         the value as JSON                                     how the text block was made of it (`_TEXTS`)
`binary`       the bytes of one block                                "image" or "audio"
`tool_result`  a whole MCP tool result as JSON                       None
=============  ====================================================  ===========================================

A shape that ends in "+fastmcp" has the `_meta` of FastMCP's wrapped values beside it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import quote

from raincheck.domain.previews import json_preview, text_preview
from raincheck.domain.task import LargeResult, Outcome
from raincheck.domain.unicode_text import well_formed

TEXT = "text/plain"
JSON = "application/json"
PREVIEW_SCHEMA: Mapping[str, Any] = {
    "title": "A preview of a large result",
    "type": "object",
    "properties": {"truncated": {"const": True}, "bytes": {"type": "integer"}, "resource": {"type": "string"}},
    "required": ["preview", "truncated", "bytes", "resource"],
}
"""JSON Schema of `public_preview`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultBody:
    """A result as bytes. See `raincheck.domain.task.LargeResult` for its attributes."""

    form: str
    shape: str | None
    media_type: str
    data: bytes
    preview: Callable[[], Any]

    def large(self, task_ref: str, blob: str | None) -> LargeResult:
        """What stands for it in the outcome of that task."""
        return LargeResult(
            task_ref=task_ref,
            blob=blob,
            form=self.form,
            shape=self.shape,
            media_type=self.media_type,
            size=len(self.data),
            sha256=hashlib.sha256(self.data).hexdigest(),
            preview=self.preview(),
        )


def to_text(value: Any) -> str:
    """Compact JSON, as it stands in text content."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _indented(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


# How tools make the text block that goes with their structured content.
_TEXTS: Mapping[str, Callable[[Any], Any]] = {
    "compact": to_text,
    "indented": _indented,
    "wrapped_compact": lambda value: to_text(_wrapped(value)),
    "wrapped_indented": lambda value: _indented(_wrapped(value)),
}


def body_of(outcome: Outcome) -> ResultBody | None:
    """The body of what the operation returned; None where it returned nothing (it failed without a tool result)."""
    if outcome.mcp_result is not None:
        return _of_tool_result(outcome.mcp_result)
    if outcome.error is not None:
        return None
    return _text(outcome.value, None) if isinstance(outcome.value, str) else _json(outcome.value, None)


def plain_value(form: str, shape: str | None, media_type: str, data: bytes) -> Any:
    """The value, without the envelope of a tool result: what a status holds where the result is small."""
    if form == "text":
        text = data.decode()
        return {"result": text} if (shape or "").removesuffix(_MARKED) == "wrapped" else text
    if form == "json":
        return json.loads(data)
    result = call_result(form, shape, media_type, data)
    if (structured := result.get("structuredContent")) is not None:
        return structured
    content: list[dict[str, Any]] = result.get("content") or []
    return content[0].get("text") if len(content) == 1 and content[0].get("type") == "text" else {"content": content}


def call_result(form: str, shape: str | None, media_type: str, data: bytes) -> dict[str, Any]:
    """The tool result that the call would have returned.

    Raises:
        ValueError: The form is of a later release, or the body is not of this form.
    """
    if form == "tool_result":
        return {"resultType": "complete", **json.loads(data)}
    if shape is not None and shape.endswith(_MARKED):
        plain = call_result(form, shape.removesuffix(_MARKED) or None, media_type, data)
        return {**plain, "_meta": _OF_FASTMCP}
    result: dict[str, Any] = {"resultType": "complete", "content": [], "isError": False}
    if form == "text":
        text = data.decode()
        result["content"] = [{"type": "text", "text": text}]
        if shape == "wrapped":
            result["structuredContent"] = {"result": text}
    elif form == "json":
        value = json.loads(data)
        result["content"] = [{"type": "text", "text": _TEXTS[shape or "compact"](value)}]
        if isinstance(value, dict):
            result["structuredContent"] = value
    elif form == "binary" and shape is not None:
        result["content"] = [{"type": shape, "data": base64.b64encode(data).decode(), "mimeType": media_type}]
    else:
        raise ValueError(f"results of the form {form!r} are not known here")
    return result


def result_uri(task_ref: str) -> str:
    """Where a task's result can be read as a resource."""
    return f"raincheck://tasks/{quote(task_ref, safe='')}/result"


def public_preview(large: LargeResult) -> dict[str, Any]:
    """What callers are shown in place of the result."""
    shape = {} if large.shape is None else {"shape": large.shape}
    return {
        "preview": large.preview,
        "truncated": True,
        "bytes": large.size,
        "media_type": large.media_type,
        "resource": result_uri(large.task_ref),
        "form": large.form,
        **shape,
        "sha256": large.sha256,
        "next_step": "This is a preview. If you need the rest, call resolve_task_status with task_ref "
        f'"{large.task_ref}" and result_offset 0, or read `resource` with resources/read.',
    }


def link_of(large: LargeResult) -> dict[str, Any]:
    """The content block that links to the whole result."""
    return {
        "type": "resource_link",
        "uri": result_uri(large.task_ref),
        "name": "result",
        "title": "The whole result",
        "description": f"The whole result of task {large.task_ref}, {large.size} bytes.",
        "mimeType": large.media_type,
        "size": large.size,
    }


def _of_tool_result(result: Mapping[str, Any]) -> ResultBody:
    told = {key: value for key, value in result.items() if (key, value) not in _NEUTRAL}
    if told.get("_meta") == _OF_FASTMCP:
        plain = _of_tool_result({key: value for key, value in result.items() if key != "_meta"})
        if plain.form != "tool_result":
            return replace(plain, shape=(plain.shape or "") + _MARKED)
    content: Any = told.get("content")
    if isinstance(content, list) and len(blocks := cast("list[Any]", content)) == 1 and isinstance(blocks[0], dict):
        block = cast("dict[str, Any]", blocks[0])
        found = _of_one_block(block, told.get("structuredContent"), set(told) - {"content", "structuredContent"})
        if found is not None:
            return found
    data = _encoded(to_text(dict(result)))
    return ResultBody(
        form="tool_result", shape=None, media_type=JSON, data=data, preview=lambda: json_preview(dict(told))
    )


# What FastMCP marks results with whose value it wrapped into an object, and how a shape says so.
_OF_FASTMCP = {"fastmcp": {"wrap_result": True}}
_MARKED = "+fastmcp"
_NEUTRAL = (("resultType", "complete"), ("isError", False))


def _of_one_block(block: Mapping[str, Any], structured: Any, others: set[str]) -> ResultBody | None:
    if others:
        return None
    kind = block.get("type")
    if kind == "text" and set(block) == {"type", "text"}:
        text = block["text"]
        if structured is None:
            return _text(text, None)
        if structured == {"result": text}:
            return _text(text, "wrapped")
        shape = next((shape for shape, make in _TEXTS.items() if make(structured) == text), None)
        return None if shape is None or not isinstance(structured, dict) else _json(structured, shape)
    if kind in ("image", "audio") and set(block) == {"type", "data", "mimeType"} and structured is None:
        data = _decoded(block["data"])
        if data is not None:
            media_type, size = str(block["mimeType"]), len(data)
            shown = f"{kind} of {size} bytes, {media_type}"
            return ResultBody(form="binary", shape=str(kind), media_type=media_type, data=data, preview=lambda: shown)
    return None


def _wrapped(structured: object) -> Any:
    # What an SDK makes of a value that is no object.
    members = cast("dict[str, Any]", structured) if isinstance(structured, dict) else dict[str, Any]()
    return members["result"] if set(members) == {"result"} else members


def _text(text: str, shape: str | None) -> ResultBody:
    return ResultBody(
        form="text", shape=shape, media_type=TEXT, data=_encoded(text), preview=lambda: text_preview(text)
    )


def _json(value: Any, shape: str | None) -> ResultBody:
    data = _encoded(to_text(value))
    return ResultBody(form="json", shape=shape, media_type=JSON, data=data, preview=lambda: json_preview(value))


def _encoded(text: str) -> bytes:
    return well_formed(text).encode()


def _decoded(text: Any) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None
