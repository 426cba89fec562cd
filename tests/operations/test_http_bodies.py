"""Bodies of http operations: what a caller passes stays one value, whatever the body is."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import pytest
from operations.test_http_operations import schema, sent

from raincheck.errors import ConfigurationError, InvalidParameters
from raincheck.operations.http import http_operation

FORM = "application/x-www-form-urlencoded"
NASTY = 'x&role=admin#"},{"role":"admin\\</b><role>admin</role>\r\n%26;='


async def body_of(body: Any, value: Any, content_type: str | None = None, **declared: Any) -> tuple[str, str]:
    """The body that is sent, and its type."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    request = await sent("/", schema("user"), "POST", body=body, headers=headers, arguments={"user": value}, **declared)
    return request.body.decode(), request.headers["content-type"]


@pytest.mark.parametrize("content_type", [None, FORM, f"{FORM}; charset=UTF-8"])
async def test_a_value_cannot_add_a_field_to_a_form_that_is_written_out(content_type: str | None) -> None:
    body, sent_as = await body_of("user={user}&role=guest", NASTY, content_type)

    assert parse_qsl(body, strict_parsing=True) == [("user", NASTY), ("role", "guest")]
    assert sent_as == (content_type or FORM)


@pytest.mark.parametrize("content_type", [None, "application/json", "application/vnd.api+json; charset=utf-8"])
async def test_a_value_cannot_leave_its_place_in_json_that_is_written_out(content_type: str | None) -> None:
    text = '{{"user": "{user}", "of": ["\\"{user}", {user}], "role": "guest"}}'
    body, sent_as = await body_of(text, NASTY, content_type)

    assert json.loads(body) == {"user": NASTY, "of": [f'"{NASTY}', NASTY], "role": "guest"}
    assert sent_as == (content_type or "application/json")
    assert json.loads((await body_of(text, [1, None], content_type))[0])["of"] == ['"[1,null]', [1, None]]
    assert json.loads((await body_of(text, None, content_type))[0])["of"] == ['"', None]


@pytest.mark.parametrize("content_type", ["application/xml", "image/svg+xml", "text/html; charset=utf-8"])
async def test_a_value_stays_text_in_xml_and_html(content_type: str) -> None:
    nasty = NASTY.replace("\r\n", "")
    body, _ = await body_of('<a name="{user}"><b>{user}</b></a>', nasty, content_type)

    root = ElementTree.fromstring(body)
    assert root.attrib == {"name": nasty}
    assert [(each.tag, each.text) for each in root] == [("b", nasty)]


async def test_a_form_takes_its_fields_from_a_table() -> None:
    request = await sent(
        "/",
        schema("user", "tags", "size", optional=("gone",)),
        "POST",
        form={"user": "{user}", "tag": "{tags}", "text": "about {user}: {size}", "gone": "{gone}", "role": "guest"},
        arguments={"user": NASTY, "tags": ["a&b", 2], "size": 1.5},
    )

    assert request.headers["content-type"] == FORM
    assert parse_qsl(request.body.decode(), strict_parsing=True) == [
        ("user", NASTY),
        ("tag", "a&b"),
        ("tag", "2"),
        ("text", f"about {NASTY}: 1.5"),
        ("role", "guest"),
    ]


async def test_text_and_raw_bodies_hold_values_as_they_are() -> None:
    assert await body_of("Dear {user}", NASTY, "text/plain") == (f"Dear {NASTY}", "text/plain")
    assert await body_of("Dear {user}", NASTY) == (f"Dear {NASTY}", "text/plain; charset=utf-8")
    assert (await body_of("user={user}", NASTY, FORM, raw=True))[0] == f"user={NASTY}"
    assert await body_of("{user}", '{"a":1}', "application/json", raw=True) == ('{"a":1}', "application/json")


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"body": "a: {user}", "headers": {"Content-Type": "text/yaml"}}, "raw = true fills values in as they are"),
        ({"body": "a={user}", "headers": {"content-type": "{user}"}}, "raw = true fills values in as they are"),
        ({"body": "{user}", "headers": {"Content-Type": "text/html; charset=utf-7"}}, "in UTF-8"),
        ({"body": '{{"a": {user}', "headers": {"Content-Type": "application/json"}}, "it is not JSON"),
        ({"body": {"a": "{user}"}, "headers": {"Content-Type": FORM}}, "form = {...}"),
        ({"form": {"a": "{user}"}, "body": "a"}, "'body' and 'form' exclude each other"),
        ({"form": {"a": "{user}"}, "headers": {"Content-Type": "application/json"}}, f"a form is sent as {FORM}"),
        ({"form": {"a": "{usr}"}}, "form.a: '{usr}' names no parameter"),
        ({"body": {"a": "{user}"}, "raw": True}, "raw = true is for a body that is a text"),
    ],
)
def test_a_body_whose_values_cannot_be_encoded_stops_the_start(declared: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        http_operation(
            "call", method="POST", url="https://api.example.com/", parameters=schema("user"), description="", **declared
        )
    assert told in caught.value.message
    assert caught.value.message.startswith("operation 'call': ")


def test_a_value_cannot_add_a_cookie() -> None:
    operation = http_operation(
        "call",
        method="GET",
        url="https://api.example.com/",
        parameters=schema("user"),
        headers={"Cookie": "user={user}; role=guest"},
        description="",
    )
    for value in ("x; role=admin", "x,role=admin", "x\trole", '"x'):
        with pytest.raises(InvalidParameters, match="being part of a cookie"):
            operation.executor.validate({"user": value})
    assert operation.executor.validate({"user": "x"}) == {"user": "x"}


async def test_json_may_begin_with_a_blank_and_stays_json() -> None:
    body, sent_as = await body_of(' {{"user": "{user}"}}', 'x", "role": "admin')
    assert (json.loads(body), sent_as) == ({"user": 'x", "role": "admin'}, "application/json")


@pytest.mark.parametrize("text", ["<user>{user}</user>", "note=a b&user={user}"])
async def test_what_may_be_read_as_more_than_text_says_what_it_is(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a Content-Type header must say what this body is"):
        await body_of(text, "ada")
