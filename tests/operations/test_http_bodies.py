"""The body of an upstream's answer: all of it, or `upstream_error`; never a part that passes for the whole."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from operations.http_server import answer, answering, serving
from operations.running import run

from raincheck.errors import ConfigurationError, UpstreamError
from raincheck.operations.http.executor import HttpExecutor, http_operation
from raincheck.operations.operation import Operation

TEXT = "text/plain"
WHOLE = "all of the text, " * 400


@asynccontextmanager
async def answered(response: bytes, **options: Any) -> AsyncGenerator[Operation]:
    """An operation whose request is answered so."""
    async with serving(answering(response)) as server:
        operation = http_operation("call", method="GET", url=server.url, parameters={}, description="Calls.", **options)
        assert isinstance(operation.executor, HttpExecutor)
        try:
            yield operation
        finally:
            await operation.executor.aclose()


def raw_deflate(text: str) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(text.encode()) + packer.flush()


def packed(data: bytes, coding: str = "gzip") -> bytes:
    return answer(body=data, content_type=TEXT, content_encoding=coding)


ZIPPED = gzip.compress(WHOLE.encode())
MEMBERS = gzip.compress(WHOLE[:100].encode()) + gzip.compress(b"") + gzip.compress(WHOLE[100:].encode())


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (packed(MEMBERS), WHOLE),
        (packed(ZIPPED + bytes(300)), WHOLE),
        (packed(zlib.compress(WHOLE.encode()), "deflate"), WHOLE),
        (packed(raw_deflate(WHOLE), "deflate"), WHOLE),
        (packed(gzip.compress(ZIPPED), "gzip, gzip"), WHOLE),
        (packed(WHOLE.encode(), "identity"), WHOLE),
        (packed(WHOLE.encode(), "UTF-8"), WHOLE),
        (packed(WHOLE.encode(), "none"), WHOLE),
        (packed(WHOLE.encode(), "aws-chunked"), WHOLE),
        (packed(ZIPPED, "aws-chunked, gzip"), WHOLE),
        (packed(gzip.compress(b"a") * 1000), "a" * 1000),
        (answer(body="über", content_type="text/plain; charset=undefined"), "über"),
        (answer(body="über", content_type="text/plain; charset=utf8mb4"), "über"),
        (answer(body="über", content_type="text/plain; charset=utf-8, text/plain; charset=latin1"), "über"),
        (answer(body="€".encode("cp1252"), content_type="text/plain; charset=cp1252"), "€"),
        (answer(body="\ufeffüber", content_type="text/plain; charset=iso-8859-1"), "über"),
        (answer(body='\ufeff{"a": "ü"}'), {"a": "ü"}),
        (answer(body=b'["\\ud83d", "\\ud83d\\ude00", "\\\\ud83d"]'), ["\ufffd", "😀", "\\ud83d"]),
        (answer(body='{"a": "ü"}'.encode("latin-1"), content_type="application/json; charset=latin1"), {"a": "ü"}),
        (answer(body='{"a": "ü"}'.encode("utf-16")), {"a": "ü"}),
    ],
)  # fmt: skip
async def test_a_body_is_read_to_its_end(response: bytes, value: Any) -> None:
    async with answered(response) as operation:
        assert await asyncio.wait_for(run(operation), 20) == value


def cut(whole: bytes) -> bytes:
    """A response whose coded body ends early, with the length that it has."""
    return packed(whole[: len(whole) // 2])


# Some 8 MiB that give no byte: empty members, empty blocks of one member, what fills up a block of a tape.
NOTHING = [
    gzip.compress(gzip.compress(b"") * 400_000),
    gzip.compress(gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 1_600_000),
    gzip.compress(ZIPPED + bytes(2**23)),
]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (cut(ZIPPED), "cut off"),
        (packed(ZIPPED[:-1]), "cut off"),
        (packed(MEMBERS + ZIPPED[:5]), "cut off"),
        (packed(ZIPPED + b"\x1f"), "cut off"),
        (packed(zlib.compress(WHOLE.encode())[:-2], "deflate"), "cut off"),
        (packed(raw_deflate(WHOLE)[:-2], "deflate"), "cut off"),
        (packed(ZIPPED + b"more"), "cannot be decoded"),
        *((packed(nothing, "gzip, gzip"), "cannot be decoded") for nothing in NOTHING),
        (packed(ZIPPED, "br"), "in the coding 'br'"),
        (packed(ZIPPED, "zstd"), "in the coding 'zstd'"),
        (packed(ZIPPED, "gzip, gzip, gzip"), "in the coding 'gzip, gzip, gzip'"),
        (answer(206, body="a part", content_type=TEXT, content_range="bytes 0-5/100"), "a part of the body"),
        (answer(302, location="http://127.0.0.1:x/"), "status 302 and no address"),
        (answer(302, body="moved"), "status 302 and no address"),
        (answer(304), "status 304"),
        (answer(body="ü".encode("latin-1"), content_type="text/plain; charset=undefined"), "charset 'undefined'"),
        (answer(body=b"\xff", content_type="text/plain; charset=utf-8; charset=latin1"), "not text"),
        (HEAD + b"content-length: 9\r\nconnection: close\r\n\r\nhalf", "before the answer was complete"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "before the answer was complete"),
        (HEAD + b"content-length: 4\r\ncontent-length: 9\r\n\r\nhalf", "before the answer was complete"),
    ],
)
async def test_what_is_not_the_whole_body_is_an_upstream_error(response: bytes, why: str) -> None:
    async def handle(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        writer.write_eof()

    async with serving(handle) as server:
        operation = http_operation("call", method="GET", url=server.url, parameters={}, description="Calls.")
        assert isinstance(operation.executor, HttpExecutor)
        try:
            with pytest.raises(UpstreamError, match=why):
                await asyncio.wait_for(run(operation), 20)
        finally:
            await operation.executor.aclose()


def test_a_variable_that_is_not_utf_8_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", "caf\udce9")
    with pytest.raises(ConfigurationError, match=r"operation 'call'.*the environment's ODD is not UTF-8$"):
        http_operation(
            "call", method="GET", url="http://x/", parameters={}, description="Calls.", headers={"X-Key": "${ODD}"}
        )


async def test_a_part_that_was_asked_for_is_the_answer() -> None:
    response = answer(206, body="a part", content_type=TEXT, content_range="bytes 0-5/100")
    async with answered(response, headers={"Range": "bytes=0-5"}) as operation:
        assert await asyncio.wait_for(run(operation), 20) == "a part"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http://",
        "//",
        "::::",
        "mailto:x@y",
        "http://[",
        "ht!tp://x",
        "http:///x",
        "http://127.0.0.1:99999/",
        "http://a b/",
    ],
)
async def test_a_redirect_that_leads_nowhere_is_an_upstream_error(location: str) -> None:
    async with answered(answer(302, location=location)) as operation:
        with pytest.raises(UpstreamError):
            await asyncio.wait_for(run(operation), 20)
