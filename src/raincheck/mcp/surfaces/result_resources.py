"""Results as resources: `raincheck://tasks/{task_ref}/result`, read whole, in pages, or one content block of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from raincheck.domain.result_body import JSON, TEXT, result_uri, to_text
from raincheck.errors import InvalidParameters, TaskNotFound
from raincheck.mcp.admission.admission import Lease
from raincheck.mcp.auth.scopes import scope_of
from raincheck.operations.limit_policy import LARGEST_WHOLE
from raincheck.tasks.registry import Registry
from raincheck.tasks.result_pages import PAGE_LENGTH, read_page
from raincheck.tasks.results import Results, StoredResult

PAGE_META = "raincheck/page"
"""The `_meta` key of a page: its offset, its length in bytes, the whole's size, and the address of the next page."""

_OURS = "raincheck://tasks/"
_ADDRESS = re.compile(r"raincheck://tasks/([^/?#]+)/result(?:/content/(\d{1,6}))?(?:\?([^#]*))?")
_LONGEST_PAGE = LARGEST_WHOLE

_TEMPLATE = {
    "uriTemplate": "raincheck://tasks/{task_ref}/result{?offset,length}",
    "name": "task_result",
    "title": "The result of a task",
    "description": "The whole result of a completed task of yours; with offset and length (in bytes) a page of it, "
    f"as one above {LARGEST_WHOLE} bytes is read.",
}


def is_result_read(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether the request reads a resource of ours."""
    return ctx.method == "resources/read" and str((ctx.params or {}).get("uri", "")).startswith(_OURS)


def with_template(result: HandlerResult) -> HandlerResult:
    """The answer of `resources/templates/list` with our template, on its last page."""
    if not isinstance(result, dict) or result.get("nextCursor"):
        return result
    return {**result, "resourceTemplates": [*result.get("resourceTemplates", ()), _TEMPLATE]}


async def read(
    ctx: ServerRequestContext[Any, Any], registry: Registry, results: Results, lease: Lease
) -> dict[str, Any]:
    """The answer of `resources/read`.

    Args:
        ctx: The request.
        registry: Finds the task.
        results: Finds its result.
        lease: Counts its bytes, and says whose turn it is.

    Raises:
        MCPError: There is no such result for this caller, the address makes no sense, or the result is read in pages
            (-32602).
        RateLimited: The caller has too much under way.
        StoreError: It cannot be read.
    """
    uri = str((ctx.params or {})["uri"])
    task_ref, block, page = _parsed(uri)
    scope = scope_of(ctx)
    try:
        stored = results.of(await registry.get(task_ref, scope=scope))
    except TaskNotFound as error:
        try:
            stored = await results.of_request(task_ref, scope)
        except TaskNotFound:
            raise _refused(error.message, uri) from None
    try:
        contents = await _contents(stored, uri, block, page, lease)
    except TaskNotFound as error:
        raise _refused(error.message, uri) from None
    return {"resultType": "complete", "contents": [contents], "ttlMs": 0, "cacheScope": "private"}


async def _contents(
    stored: StoredResult, uri: str, block: int | None, page: tuple[int, int] | None, lease: Lease
) -> dict[str, Any]:
    if block is not None:
        lease.reserve(stored.size)
        return await _block(stored, uri, block, lease)
    if page is None and stored.size > LARGEST_WHOLE:
        raise _in_pages(stored, uri)
    lease.reserve(stored.size if page is None else min(page[1], stored.size))
    if page is None:
        data = await stored.read()
        await lease.turn()
        return _told(uri, stored.media_type, data, binary=stored.form == "binary")
    offset, length = page
    data, next_offset = await read_page(stored, offset, length)
    await lease.turn()
    meta: dict[str, Any] = {"offset": offset, "length": len(data), "total": stored.size}
    if next_offset is not None:
        meta["next"] = f"{result_uri(stored.task_ref)}?{urlencode({'offset': next_offset, 'length': length})}"
    told = _told(uri, stored.media_type, data, binary=stored.form == "binary")
    return {**told, "_meta": {PAGE_META: meta}}


async def _block(stored: StoredResult, uri: str, number: int, lease: Lease) -> dict[str, Any]:
    """One block of a tool result's content, by its own media type."""
    data = await stored.read() if stored.form == "tool_result" else b"{}"
    await lease.turn()
    whole: Any = json.loads(data)
    blocks = cast("list[dict[str, Any]]", whole.get("content") or [])
    if number >= len(blocks):
        raise InvalidParameters(f"The result has no content block {number}.")
    block = blocks[number]
    if len(to_text(block)) > LARGEST_WHOLE:
        raise _in_pages(stored, uri)
    match block.get("type"):
        case "text":
            return {"uri": uri, "mimeType": TEXT, "text": block["text"]}
        case "image" | "audio":
            return {"uri": uri, "mimeType": block["mimeType"], "blob": block["data"]}
        case "resource":
            return {**cast("dict[str, Any]", block["resource"]), "uri": uri}
        case _:
            return {"uri": uri, "mimeType": JSON, "text": json.dumps(block, ensure_ascii=False)}


def _told(uri: str, media_type: str, data: bytes, *, binary: bool) -> dict[str, Any]:
    body = {"blob": base64.b64encode(data).decode()} if binary else {"text": data.decode()}
    return {"uri": uri, "mimeType": media_type, **body}


def _parsed(uri: str) -> tuple[str, int | None, tuple[int, int] | None]:
    """The task's ref, the content block and the page that the address names."""
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise _refused(f"Unknown resource; a result is {_TEMPLATE['uriTemplate']}.", uri)
    asked = _query(found[3] or "", uri)
    if found[2] is not None:
        if asked:
            raise _refused("A content block is read whole, without offset and length.", uri)
        return unquote(found[1]), int(found[2]), None
    if not asked:
        return unquote(found[1]), None, None
    offset, length = asked.get("offset", 0), asked.get("length", PAGE_LENGTH)
    if not 1 <= length <= _LONGEST_PAGE:
        raise _refused(f"length must be from 1 to {_LONGEST_PAGE} bytes.", uri)
    return unquote(found[1]), None, (offset, length)


def _query(text: str, uri: str) -> Mapping[str, int]:
    asked: dict[str, int] = {}
    # Some hosts show a link to their model as HTML, and the model copies it.
    for key, value in parse_qsl(text.replace("&amp;", "&"), keep_blank_values=True):
        if key not in ("offset", "length") or key in asked:
            raise _refused("A page is named by offset and length, each once.", uri)
        if not re.fullmatch(r"[0-9]{1,15}", value):
            raise _refused(f"{key} must be a whole number of bytes from 0.", uri)
        asked[key] = int(value)
    return asked


def _in_pages(stored: StoredResult, uri: str) -> MCPError:
    first = f"{result_uri(stored.task_ref)}?{urlencode({'offset': 0, 'length': LARGEST_WHOLE})}"
    told = f"More than {LARGEST_WHOLE} bytes are read in pages, and this result has {stored.size}. Begin with {first}."
    return MCPError(INVALID_PARAMS, told, {"uri": uri[:500], "total": stored.size, "first": first})


def _refused(message: str, uri: str) -> MCPError:
    return MCPError(INVALID_PARAMS, message, {"uri": uri[:500]})
