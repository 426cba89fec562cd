"""Bodies and previews: what goes in comes out, whatever it is, and a preview is small and valid."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincheck.domain.previews import LARGEST_PREVIEW, json_preview, text_preview
from raincheck.domain.result_body import body_of, call_result, plain_value
from raincheck.domain.task import Outcome
from raincheck.domain.task_json import plain_value as value_in_a_status
from raincheck.mcp.wire.tool_results import outcome_result

SPEAKABLE = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | SPEAKABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SPEAKABLE, inner, max_size=4),
    max_leaves=12,
)
IMAGE = {"type": "image", "data": base64.b64encode(bytes(range(256))).decode(), "mimeType": "image/png"}
FASTMCP = {"fastmcp": {"wrap_result": True}}
TABLE = {"rows": [1, 2, {"ä": "ö"}]}


def check_round_trip(outcome: Outcome) -> str:
    body = body_of(outcome)
    assert body is not None
    made = body.form, body.shape, body.media_type, body.data
    assert {"isError": False, **call_result(*made)} == {"isError": False, **outcome_result(outcome)}
    assert plain_value(*made) == value_in_a_status(outcome) or body.form == "binary"
    return body.form


@given(VALUES)
def test_any_value_comes_out_as_it_went_in(value: Any) -> None:
    check_round_trip(Outcome(value=value))


@pytest.mark.parametrize(
    ("result", "form"),
    [
        ({"content": [{"type": "text", "text": "häh"}], "isError": False}, "text"),
        ({"content": [{"type": "text", "text": "häh"}], "structuredContent": {"result": "häh"}}, "text"),
        ({"content": [{"type": "text", "text": json.dumps(TABLE)}], "structuredContent": TABLE}, "tool_result"),
        (
            {
                "content": [{"type": "text", "text": json.dumps(TABLE, ensure_ascii=False, indent=2)}],
                "structuredContent": TABLE,
            },
            "json",
        ),
        ({"content": [{"type": "text", "text": "[1,2]"}], "structuredContent": {"result": [1, 2]}}, "json"),
        ({"content": [IMAGE]}, "binary"),
        ({"content": [{"type": "text", "text": "x"}], "structuredContent": {"result": "x"}, "_meta": FASTMCP}, "text"),
        (
            {"content": [{"type": "text", "text": "1"}], "structuredContent": {"result": 1}, "_meta": FASTMCP},
            "json",
        ),
        ({"content": [], "_meta": FASTMCP}, "tool_result"),
        ({"content": [{**IMAGE, "data": "not base64!"}]}, "tool_result"),
        ({"content": [IMAGE, {"type": "text", "text": "a picture"}]}, "tool_result"),
        ({"content": [], "structuredContent": TABLE}, "tool_result"),
        ({"content": [{"type": "text", "text": "x", "annotations": {"priority": 1}}]}, "tool_result"),
        ({"content": [{"type": "text", "text": "x"}], "_meta": {"a": 1}}, "tool_result"),
    ],
)
def test_a_tool_result_comes_out_as_it_went_in(result: dict[str, Any], form: str) -> None:
    assert check_round_trip(Outcome(mcp_result=result)) == form


def test_what_a_failed_operation_has_not_returned_has_no_body() -> None:
    from raincheck.domain.task import TaskError

    assert body_of(Outcome(error=TaskError(code="timeout", message="late"))) is None


@given(SPEAKABLE, st.integers(1, 3000))
def test_the_preview_of_a_text_is_its_head(text: str, times: int) -> None:
    whole = text * times
    preview = text_preview(whole)
    assert whole.startswith(preview)
    assert len(json.dumps(preview, ensure_ascii=False).encode()) <= LARGEST_PREVIEW
    assert preview or not whole


@given(VALUES, st.integers(0, 300))
def test_the_preview_of_a_value_is_small_and_has_its_shape(value: Any, times: int) -> None:
    preview = json_preview({"items": [value] * times, "first": value})
    assert len(json.dumps(preview, ensure_ascii=False, separators=(",", ":")).encode()) <= LARGEST_PREVIEW
    assert set(preview) >= {"items", "first"}


def test_a_preview_tells_how_much_there_is() -> None:
    shown = json_preview({"rows": [{"id": each, "text": "x" * 1000} for each in range(10_000)]})
    assert shown["rows"][-1].endswith("more items")
    assert shown["rows"][0]["id"] == 0
    assert "(1000 characters)" in shown["rows"][0]["text"]
    assert json_preview({f"member {each}": each for each in range(500)})["…"].endswith("more members")
