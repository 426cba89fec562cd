"""Operations of kind http against a real server: requests as declared, answers, failures, bounds, secrets."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from operations.http_server import Handler, Received, Server, answer, answering, serving
from operations.running import context_for, run, soon, start

from raincheck.errors import ConfigurationError, InvalidParameters, OperationFailed, ResultTooLarge, UpstreamError
from raincheck.operations.http.executor import HttpExecutor, http_operation
from raincheck.operations.operation import Operation
from support.waiting import PATIENCE

TEXT = {"type": "string"}


def schema(*names: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"properties": {name: {} for name in (*names, *optional)}, "required": list(names)}


@asynccontextmanager
async def calling(
    handler: Handler, path: str, parameters: dict[str, Any], method: str = "GET", **options: Any
) -> AsyncGenerator[tuple[Operation, Server]]:
    """An operation whose URL is `path` on a server of its own."""
    async with serving(handler) as server:
        operation = http_operation(
            "call", method=method, url=server.url + path, parameters=parameters, description="Calls.", **options
        )
        assert isinstance(operation.executor, HttpExecutor)
        try:
            yield operation, server
        finally:
            await operation.executor.aclose()


async def sent(path: str, parameters: dict[str, Any], method: str = "GET", /, **more: Any) -> Received:
    """The request that one call sends; `arguments` are its parameters, the rest is the declaration."""
    arguments = more.pop("arguments", {})
    async with calling(answering(answer(body={})), path, parameters, method, **more) as (operation, server):
        await run(operation, **arguments)
        return server.received[0]


NASTY = "../a/b?c=1&d#e%2f ü@evil.example:80\r\nX: y"
NASTY_ENCODED = "..%2Fa%2Fb%3Fc%3D1%26d%23e%252f%20%C3%BC%40evil.example%3A80%0D%0AX%3A%20y"


async def test_a_value_stays_one_component_of_path_and_query() -> None:
    plain, encoded = "a/b?c=1&d#e ü@evil.example:80", "a%2Fb%3Fc%3D1%26d%23e%20%C3%BC%40evil.example%3A80"
    request = await sent("/v1/{id}/x?q={query}&fixed=1", schema("id", "query"), arguments={"id": plain, "query": NASTY})

    assert request.target == f"/v1/{encoded}/x?q={NASTY_ENCODED}&fixed=1"


@pytest.mark.parametrize(
    "value",
    [
        *("..", ".", "", "../admin", "a/../../admin", "..\\admin", "..;", "..;x=1/admin", "a\0b", "a\r\nb", "a/."),
        *("%2e%2e", "..%2Fadmin", "..%5Cadmin", "%252e%252e%252fadmin", "%00", ".%2e/admin", "%c0%ae%c0%ae/admin"),
        *("．．／admin", "‥", "%u002e%u002e/admin", "%ud800/..", ".. /admin", "%25252525252e"),
    ],
)
def test_a_value_cannot_change_the_shape_of_the_path(value: str) -> None:
    operation = http_operation(
        "call", method="GET", url="https://api.example.com/a/{id}/b", parameters=schema("id"), description=""
    )
    with pytest.raises(InvalidParameters, match=r"id: must not (be|hold) .*being part of a path"):
        operation.executor.validate({"id": value})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "https://{id}.example.com/"}, "none of it from a parameter"),
        ({"url": "https://api.example.com{id}"}, "must not change the host"),
        ({"url": "{id}://api.example.com/"}, "none of it from a parameter"),
        ({"url": "ftp://api.example.com/"}, "must begin with http:// or https://"),
        ({"url": "https://api.example.com:x/"}, "host or port is not valid"),
        ({"url": "https://api.example.com/{optional}"}, "must be required or have a default"),
        ({"url": "https://api.example.com/{nowhere}"}, "names no parameter by {nowhere}; parameters: id, optional"),
        ({"url": "https://api.example.com/${RAINCHECK_TEST_MISSING}"}, "no variable RAINCHECK_TEST_MISSING"),
        ({"headers": {"X-Y": "${RAINCHECK_TEST_MISSING}"}}, "headers.X-Y: the environment has no variable"),
        ({"headers": {"X Y": "1"}}, "not a header's name"),
        ({"headers": {"X-Y": "1\n2"}}, "must not hold a line break"),
        ({"headers": {"Content-Length": "1"}}, "writes this header itself"),
        ({"method": "POST", "body": {"a": "{id}"}}, "parameter 'optional' is used nowhere"),
        ({"method": "BREW"}, "allowed: GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_declaration_stops_the_start_with_one_line(options: dict[str, Any], told: str) -> None:
    declared: dict[str, Any] = {
        "method": "GET",
        "url": "https://api.example.com/",
        "parameters": schema("id", optional=("optional",)),
        "description": "",
        **options,
    }
    with pytest.raises(ConfigurationError) as caught:
        http_operation("call", **declared)
    assert told in caught.value.message
    assert caught.value.message.startswith("operation 'call': ")
    assert "\n" not in caught.value.message


async def test_parameters_that_nothing_uses_go_to_the_query_of_a_get() -> None:
    request = await sent(
        "/v1/{id}?fixed=1&q={q}",
        schema("id", "many", "yes", optional=("q", "gone")),
        arguments={"id": 7, "many": ["a&b", 2], "yes": True, "gone": None},
    )

    assert request.target == "/v1/7?fixed=1&many=a%26b&many=2&yes=true"
    assert request.body == b""
    assert "idempotency-key" not in request.headers


async def test_parameters_that_nothing_uses_are_the_json_body_of_a_post() -> None:
    request = await sent("/v1/{id}", schema("id", "size", "tags"), "POST", arguments={"id": 7, "size": 1.5, "tags": []})

    assert (request.method, request.target) == ("POST", "/v1/7")
    assert request.json == {"size": 1.5, "tags": []}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == "task-1"


async def test_a_json_body_keeps_the_types_of_its_values() -> None:
    body = {
        "topic": "{topic}",
        "size": "{size}",
        "text": "about {topic}: {size} {{pages}}",
        "nested": [{"tags": "{tags}"}, "{gone}", 5],
        "gone": "{gone}",
        "nothing": "{nothing}",
    }
    request = await sent(
        "/",
        schema("topic", "size", "tags", optional=("gone", "nothing")),
        "PUT",
        body=body,
        arguments={"topic": 'a "b"', "size": 3, "tags": ["x"], "nothing": None},
    )

    assert request.json == {
        "topic": 'a "b"',
        "size": 3,
        "text": 'about a "b": 3 {pages}',
        "nested": [{"tags": ["x"]}, 5],
        "nothing": None,
    }


async def test_a_text_body_is_sent_as_text() -> None:
    request = await sent("/", schema("name"), "POST", body="Dear {name},", arguments={"name": "Zoë"})

    assert request.body.decode() == "Dear Zoë,"
    assert request.headers["content-type"] == "text/plain; charset=utf-8"


async def test_headers_take_values_and_may_replace_ours() -> None:
    request = await sent(
        "/",
        schema("who", optional=("gone",)),
        "POST",
        headers={"X-Who": "it is {who}", "X-Gone": "{gone}", "idempotency-key": "mine", "Content-Type": "text/x"},
        arguments={"who": "Zoë"},
    )

    assert request.headers["x-who"].encode("latin-1").decode() == "it is Zoë"
    assert "x-gone" not in request.headers
    assert request.headers["idempotency-key"] == "mine"
    assert request.headers["content-type"] == "text/x"


def test_a_header_cannot_be_split_by_a_value() -> None:
    operation = http_operation(
        "call",
        method="GET",
        url="https://api.example.com/",
        parameters=schema("who"),
        headers={"X-Who": "{who}"},
        description="",
    )
    for value in ("a\r\nX-Admin: 1", "a\nb", "a\0b"):
        with pytest.raises(InvalidParameters, match="who: must not hold a line break"):
            operation.executor.validate({"who": value})


async def test_an_idempotency_key_with_odd_characters_is_encoded() -> None:
    async with calling(answering(answer()), "/", {}, "POST") as (operation, server):
        await operation.executor.run({}, context_for(operation, key="a b\r\nX: ü"))
        assert server.received[0].headers["idempotency-key"] == "a%20b%0D%0AX:%20%C3%BC"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (answer(body={"pages": 3}), {"pages": 3}),
        (answer(body=[1], content_type="application/problem+json; charset=utf-8"), [1]),
        (answer(body="plain", content_type="text/plain"), "plain"),
        (answer(body="ü".encode("latin-1"), content_type="text/plain; charset=iso-8859-1"), "ü"),
        (answer(204), None),
        (answer(body=gzip.compress(b'{"zipped": true}'), content_encoding="gzip"), {"zipped": True}),
    ],
)
async def test_the_body_of_the_answer_is_the_result(response: bytes, value: Any) -> None:
    async with calling(answering(response), "/", {}) as (operation, _):
        assert await run(operation) == value


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (answer(body="{not json"), "answered with broken JSON"),
        (answer(body=b"\xff\xd8", content_type="image/jpeg"), "answered with image/jpeg that is not text"),
        (answer(body=b"no gzip", content_encoding="gzip"), "sent a body that cannot be decoded"),
    ],
)
async def test_an_answer_that_cannot_be_read_fails_once_and_for_all(response: bytes, told: str) -> None:
    async with calling(answering(response), "/", {}) as (operation, server):
        with pytest.raises(UpstreamError) as caught:
            await run(operation)
        assert caught.value.message == f"127.0.0.1:{server.port} {told}"
        assert not caught.value.retryable


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (404, False), (408, True), (425, True), (429, True), (500, True), (503, True)],
)
async def test_a_refusing_server_is_told_with_status_and_the_end_of_its_body(status: int, retryable: bool) -> None:
    response = answer(status, "x" * 10_000 + "the end", "text/plain")
    async with calling(answering(response), "/secret/path?token=1", {}) as (operation, server):
        with pytest.raises(UpstreamError) as caught:
            await run(operation)
    assert caught.value.message == f"127.0.0.1:{server.port} answered with status {status}"
    assert caught.value.retryable is retryable
    assert caught.value.details["status"] == status
    assert caught.value.details["body_tail"].endswith("xthe end")
    assert len(caught.value.details["body_tail"]) == 2048
    assert "retry_after_seconds" not in caught.value.details


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("7", 7, 7), ("in an hour", 3000, 3600), ("an hour ago", 0, 0), ("1e999", None, None), ("soon", None, None)],
)
async def test_retry_after_is_told_in_seconds(value: str, least: float | None, most: float | None) -> None:
    hours = {"in an hour": 1, "an hour ago": -1}.get(value)
    if hours is not None:
        value = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    async with calling(answering(answer(503, retry_after=value)), "/", {}) as (operation, _):
        with pytest.raises(UpstreamError) as caught:
            await run(operation)
    seconds = caught.value.details.get("retry_after_seconds")
    assert (seconds is None) == (least is None)
    assert seconds is None or (least or 0) <= seconds <= (most or 0)


async def test_servers_that_cannot_be_reached_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for url, told in (
        (f"http://127.0.0.1:{port}/path?token=1", f"127.0.0.1:{port} refused the connection"),
        ("http://no-such-host.invalid/", "no-such-host.invalid cannot be found (DNS)"),
    ):
        operation = http_operation("call", method="GET", url=url, parameters={}, description="")
        with pytest.raises(UpstreamError) as caught:
            await run(operation)
        assert caught.value.message == told
        assert caught.value.retryable
        assert isinstance(operation.executor, HttpExecutor)
        await operation.executor.aclose()


async def drop(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def drop_in_the_middle(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(body="x" * 1000)[:-500])
    await writer.drain()
    writer.close()


async def speak_nonsense(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example.com ESMTP\r\n\r\n")


@pytest.mark.parametrize("handler", [drop, drop_in_the_middle, speak_nonsense])
async def test_a_connection_that_breaks_may_be_tried_again(handler: Handler) -> None:
    async with calling(handler, "/", {}) as (operation, server):
        with pytest.raises(UpstreamError) as caught:
            await run(operation)
        assert caught.value.message == f"the connection to 127.0.0.1:{server.port} broke before the answer was complete"
        assert caught.value.retryable


async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def test_cancelling_ends_the_request_and_closes_its_connection() -> None:
    async with calling(drip, "/", {}) as (operation, server):
        context = context_for(operation)
        task = start(operation, context)
        await soon(server.arrived.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert context.cancelled
        await soon(server.gone.wait())


async def test_a_server_that_hangs_holds_no_other_request_up() -> None:
    async def handler(request: Received, writer: asyncio.StreamWriter) -> None:
        await (hang(request, writer) if request.target == "/hang" else answering(answer(body=1))(request, writer))

    async with calling(handler, "/{what}", schema("what")) as (operation, _):
        hanging = [start(operation, context_for(operation), what="hang") for _ in range(120)]
        assert await soon(run(operation, what="go")) == 1
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_connections_are_used_again() -> None:
    async with calling(answering(answer(body=1)), "/", {}) as (operation, server):
        for _ in range(3):
            await run(operation)
        assert server.connections == 1


async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    "handler", [endless, answering(answer(body=gzip.compress(b"x" * 10_000_000), content_encoding="gzip"))]
)
async def test_an_answer_is_bounded_while_it_arrives(handler: Handler) -> None:
    async with calling(handler, "/", {}, max_response_bytes=100_000) as (operation, server):
        with pytest.raises(ResultTooLarge, match="larger than 100000 bytes"):
            await soon(run(operation))
        await soon(server.gone.wait())


async def test_redirects_are_followed_within_the_origin_only() -> None:
    async def handler(request: Received, writer: asyncio.StreamWriter) -> None:
        away = f"http://localhost:{request.headers['host'].partition(':')[2]}/there"
        writer.write(
            {
                "/start": answer(307, location="/there"),
                "/loop": answer(302, location="/loop"),
                "/away": answer(302, location=away),
            }.get(
                request.target, answer(body={"method": request.method, "key": request.headers.get("idempotency-key")})
            )
        )

    async with calling(handler, "/{what}", schema("what"), "POST") as (operation, server):
        assert await run(operation, what="start") == {"method": "POST", "key": "task-1"}
        with pytest.raises(UpstreamError, match="redirects to another origin"):
            await run(operation, what="away")
        with pytest.raises(UpstreamError, match="redirects more than 5 times"):
            await run(operation, what="loop")
        assert all(request.headers["host"].startswith("127.0.0.1") for request in server.received)


async def test_one_tasks_cookies_do_not_travel_with_another() -> None:
    async with calling(answering(answer(body=1, set_cookie="session=mine")), "/", {}) as (operation, server):
        await run(operation)
        await run(operation)
        assert "cookie" not in server.received[1].headers


async def test_secrets_of_the_environment_are_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "hunter2{not-a-placeholder}")

    async def echo(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(500, request.headers["authorization"] + request.target, "text/plain"))

    with caplog.at_level(logging.DEBUG):
        async with calling(echo, "/?key=${SHOP_TOKEN}", {}, headers={"Authorization": "Bearer ${SHOP_TOKEN}"}) as (
            operation,
            server,
        ):
            with pytest.raises(UpstreamError) as caught:
                await run(operation)

    assert server.received[0].headers["authorization"] == "Bearer hunter2{not-a-placeholder}"
    shown = [repr(operation), repr(vars(operation.executor)), caught.value.message, caplog.text]
    assert not [text for text in shown if "hunter2" in text]
    assert caught.value.details["body_tail"].startswith("Bearer ***/?key=")


async def test_stored_parameters_that_no_longer_fit_fail_the_task() -> None:
    operation = http_operation(
        "call", method="GET", url="https://api.example.com/{id}", parameters=schema("id"), description=""
    )
    with pytest.raises(OperationFailed, match=r"as it is now: .*id: must not be empty"):
        await operation.executor.run({"id": ""}, context_for(operation))


def test_an_operation_may_be_used_from_one_event_loop_after_another() -> None:
    async def once(operation: Operation | None, port: int) -> tuple[Operation, int, Any]:
        async with serving(answering(answer(body=1)), port) as server:
            operation = operation or http_operation("call", method="GET", url=server.url, parameters={}, description="")
            result = await run(operation)
            assert isinstance(operation.executor, HttpExecutor)
            await operation.executor.aclose()
            return operation, server.port, result

    operation, port, first = asyncio.run(once(None, 0))
    _, _, second = asyncio.run(once(operation, port))
    assert (first, second) == (1, 1)


async def test_stored_parameters_that_no_longer_fit_are_not_left_out_of_a_request() -> None:
    async with calling(answering(answer(body={})), "/pay?to={to}", schema("to"), "POST") as (then, server):
        stored = then.executor.validate({"to": "ada"})
        now = http_operation(
            "call",
            method="POST",
            url=f"{server.url}/pay?to={{x}}",
            parameters=schema("x"),
            description="",
        )
        assert isinstance(now.executor, HttpExecutor)
        try:
            with pytest.raises(OperationFailed, match=r"do not fit the operation as it is now: .*x: required"):
                await now.executor.run(stored, context_for(now))
        finally:
            await now.executor.aclose()
        assert server.received == []


@pytest.mark.parametrize("charset", ["punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7"])
async def test_an_answer_in_a_charset_that_is_none_of_the_webs_is_refused(charset: str) -> None:
    # Python's punycode takes quadratic time: this took seconds, and four times as much 16 times as long.
    body = b"a" * 200 + b"-" + b"9" * 100_000
    response = answer(body=body, content_type=f"text/plain; charset={charset}")
    async with calling(answering(response), "/", {}) as (operation, _):
        with pytest.raises(UpstreamError, match="charset"):
            await asyncio.wait_for(run(operation), PATIENCE)


@pytest.mark.parametrize(
    ("charset", "text"),
    [("ISO-8859-1", "ü"), ("windows-1252", "€"), ("Shift_JIS", "雨"), ("utf-16le", "雨"), ('"GBK"', "雨")],
)
async def test_an_answer_in_a_charset_of_the_web_is_read(charset: str, text: str) -> None:
    body = text.encode(charset.strip('"'))
    response = answer(body=body, content_type=f"text/plain; charset={charset}")
    async with calling(answering(response), "/", {}) as (operation, _):
        assert await run(operation) == text
