"""What a message that cannot be read is answered with (JSON-RPC 2.0, section 5.1): under its own id, if it has one."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

from raincheck.domain.unicode_text import well_formed

_LONGEST_REASON = 200
# A text (to the end of the message where it has no end) or a bracket.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_ID = re.compile(r'\s*+:\s*+("(?:[^"\\]|\\.){0,500}+"|-?[0-9]{1,19}+)\s*+[,}]')


def refusal_of(problem: object) -> JSONRPCError | None:
    """The error that the sender of an unreadable message is told; None where it waits for none.

    Args:
        problem: What the transport gave in the message's place.
    """
    if not isinstance(problem, ValidationError):
        return _error(PARSE_ERROR, "Parse error", None)
    errors = problem.errors(include_url=False, include_context=False)
    broken = next((each for each in errors if each["type"] == "json_invalid"), None)
    if broken is not None:
        line: Any = broken["input"]
        text = line.decode("utf-8", "replace") if isinstance(line, bytes) else str(line)
        if not text.strip():
            return None
        return _error(PARSE_ERROR, f"Parse error: {broken['msg']}"[:_LONGEST_REASON], _id_in(text))
    # Beside the kind of message that it is read as, a place names the member that is wrong, unless that is missing.
    whole: Any = next((each["input"] for each in errors if len(each["loc"]) == 1 + (each["type"] == "missing")), None)
    if isinstance(whole, list):
        return _error(INVALID_REQUEST, "Invalid Request: batches are not taken; send each message on its own", None)
    members = cast("dict[str, Any]", whole) if isinstance(whole, dict) else dict[str, Any]()
    if "method" not in members and ("result" in members or "error" in members):
        # An answer: two that answer each other's answers would never end.
        return None
    found = members.get("id")
    known = found if isinstance(found, int | str) and not isinstance(found, bool) else None
    return _error(INVALID_REQUEST, "Invalid Request: this is no JSON-RPC 2.0 request", known)


def _error(code: int, message: str, request_id: int | str | None) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=message))


def _id_in(text: str) -> int | str | None:
    """The id of a request that is JSON but for some part of it, None where there is none."""
    depth = 0
    for found in _TOKEN.finditer(text):
        piece = found[0]
        if piece in "{[":
            depth += 1
        elif piece in "}]":
            depth -= 1
        elif depth == 1 and piece == '"id"' and (given := _ID.match(text, found.end())) is not None:
            try:
                value = json.loads(given[1])
            except ValueError:
                return None
            return well_formed(value) if isinstance(value, str) else value
    return None
