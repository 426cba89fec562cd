"""Calls that are wrong: each gets a clear error and leaves no trace, and the server keeps serving."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from support.serving import Caller, Process, Refused, RpcError, StdioServer, Workplace
from support.waiting import PATIENCE

TRANSPORTS = ("stdio", "streamable-http")
TOML = """
[operations.measure]
kind = "python"
target = "ops:measure"
"""
FUNCTIONS = '''
def measure(text: str, times: int = 1) -> int:
    """The length of a text."""
    return len(text) * times
'''

INITIATE, RESOLVE = "initiate_background_task", "resolve_task_status"
GOOD = {"operation_type": "measure", "parameters": {"text": "abc"}}
TWO_MIB = "x" * (2 * 1024 * 1024)
HUGE_NUMBER = 10**400


def initiate(**arguments: Any) -> tuple[str, dict[str, Any]]:
    return INITIATE, {**GOOD, **arguments}


def deeply_nested() -> list[Any]:
    nested: list[Any] = []
    for _ in range(150):
        nested = [nested]
    return nested


# What is called, the error's code, and a part of its message that tells the caller what to do better.
WRONG: list[tuple[tuple[str, dict[str, Any]], str, str]] = [
    (initiate(operation_type="nope"), "unknown_operation", "Known: measure"),
    (initiate(operation_type=5), "invalid_parameters", "operation_type must be a text"),
    (initiate(operation_type=""), "invalid_parameters", "operation_type"),
    ((INITIATE, {}), "invalid_parameters", "operation_type"),
    (initiate(parameters={}), "invalid_parameters", "text: required"),
    (initiate(parameters={"text": 5}), "invalid_parameters", "text: "),
    (initiate(parameters={"text": "a", "times": "many"}), "invalid_parameters", "times: "),
    (initiate(parameters={"text": "a", "more": 1}), "invalid_parameters", "there are: text, times"),
    (initiate(parameters={"text": deeply_nested()}), "invalid_parameters", "text"),
    (initiate(parameters={"text": "a", "times": HUGE_NUMBER}), "invalid_parameters", "times: a number beyond ±1.8e308"),
    (initiate(parameters={"text": "a", "times": float("inf")}), "invalid_parameters", "not JSON"),
    (initiate(parameters=["text"]), "invalid_parameters", "parameters must be a JSON object"),
    (initiate(parameters="text"), "invalid_parameters", "parameters must be a JSON object"),
    (initiate(parameters={"text": TWO_MIB}), "payload_too_large", "at most 1048576"),
    (initiate(max_wait_seconds=-1), "invalid_parameters", "max_wait_seconds must be above 0 and at most 86400"),
    (initiate(max_wait_seconds=0), "invalid_parameters", "max_wait_seconds must be above 0"),
    (initiate(max_wait_seconds=1e9), "invalid_parameters", "at most 86400"),
    (initiate(max_wait_seconds=1e308), "invalid_parameters", "at most 86400"),
    (initiate(max_wait_seconds=HUGE_NUMBER), "invalid_parameters", "max_wait_seconds"),
    (initiate(max_wait_seconds=float("nan")), "invalid_parameters", "max_wait_seconds"),
    (initiate(max_wait_seconds="an hour"), "invalid_parameters", "max_wait_seconds must be a number of seconds"),
    (initiate(max_wait_seconds=True), "invalid_parameters", "max_wait_seconds must be a number of seconds"),
    (initiate(idempotency_key=""), "invalid_parameters", "idempotency_key"),
    (initiate(idempotency_key="x" * 256), "invalid_parameters", "1 to 255"),
    (initiate(idempotency_key="a\nb"), "invalid_parameters", "printable"),
    (initiate(idempotency_key=5), "invalid_parameters", "idempotency_key must be a text"),
    (initiate(deadline=5), "invalid_parameters", "'deadline'. Allowed: operation_type"),
    ((RESOLVE, {}), "invalid_parameters", "'task_ref'"),
    ((RESOLVE, {"task_ref": "nope"}), "task_not_found", "no such task"),
    ((RESOLVE, {"task_ref": ""}), "invalid_parameters", "task_ref must be a text"),
    ((RESOLVE, {"task_ref": "x" * 100_000}), "task_not_found", "no such task"),
    ((RESOLVE, {"task_ref": "../../etc/passwd"}), "task_not_found", "no such task"),
    ((RESOLVE, {"task_ref": "a\0b"}), "task_not_found", "no such task"),
    ((RESOLVE, {"task_ref": "' OR 1=1 --"}), "task_not_found", "no such task"),
    ((RESOLVE, {"task_ref": "%"}), "task_not_found", "no such task"),
    ((RESOLVE, {"task_ref": 5}), "invalid_parameters", "task_ref must be a text"),
    ((RESOLVE, {"task_ref": None}), "invalid_parameters", "task_ref must be a text"),
    ((RESOLVE, {"task_ref": ["a"]}), "invalid_parameters", "task_ref must be a text"),
    ((RESOLVE, {"task_ref": "nope", "wait_seconds": -1}), "invalid_parameters", "wait_seconds must be from 0"),
    ((RESOLVE, {"task_ref": "nope", "wait_seconds": HUGE_NUMBER}), "invalid_parameters", "wait_seconds"),
    ((RESOLVE, {"task_ref": "nope", "wait_seconds": "long"}), "invalid_parameters", "wait_seconds"),
    (("cancel_background_task", {"task_ref": "nope"}), "task_not_found", "no such task"),
    (("provide_task_input", {"task_ref": "nope", "responses": {}}), "task_not_found", "no such task"),
    (("provide_task_input", {"task_ref": "nope", "responses": []}), "invalid_parameters", "responses"),
    (("measure", {}), "invalid_parameters", "text: required"),
    (("measure", {"text": 5}), "invalid_parameters", "text: "),
    (("measure", {"text": "a", "more": 1}), "invalid_parameters", "there are: text, times"),
    (("measure", {"text": TWO_MIB}), "payload_too_large", "at most 1048576"),
]


async def no_trace(place: Workplace) -> bool:
    code, out, _ = await place.raincheck("tasks", "list", "--json")
    assert code == 0
    return json.loads(out) == []


async def still_serves(caller: Caller) -> bool:
    return (await asyncio.wait_for(caller.run("measure", {"text": "abc"}), PATIENCE))["result"] == 3


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_wrong_call_gets_a_clear_error_and_leaves_no_task(tmp_path: Path, transport: str) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    wrong: list[str] = []
    async with place.served(transport) as (server, caller):
        for (tool, arguments), code, part in WRONG:
            shown = f"{tool} {str(arguments)[:90]}"
            try:
                answer = await asyncio.wait_for(caller.call(tool, arguments), PATIENCE)
                wrong.append(f"{shown}: accepted: {answer}")
            except Refused as refused:
                error = refused.error
                if (error.get("code"), set(error)) != (code, {"code", "message", "retryable", "details"}):
                    wrong.append(f"{shown}: {error}")
                elif part not in error["message"] or "\n" in error["message"] or len(error["message"]) > 400:
                    wrong.append(f"{shown}: the message is {error['message']!r}")
        assert wrong == []
        assert await no_trace(place)
        assert "Traceback" not in server.log
        assert await still_serves(caller)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_tool_that_is_not_there_is_an_error_and_leaves_no_task(tmp_path: Path, transport: str) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with place.served(transport) as (_, caller):
        with pytest.raises((Refused, RpcError), match="nope"):
            await caller.call("nope", {})
        assert await no_trace(place)
        assert await still_serves(caller)


async def test_what_is_no_mcp_at_all_does_not_disturb_a_stdio_server(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    async with place.stdio() as server:
        for junk in (b"garbage\n", b"\n", b"{}\n", b"[]\n", b"\xff\xfe\x00\n", b"[" * 100_000 + b"\n", b'"\\ud800"\n'):
            server.write(junk)
        assert await still_serves(server)
        assert server.stray == []
        refused = [message["error"]["code"] for line in server.lines if (message := json.loads(line))["id"] is None]
        # An empty line is no message.
        assert refused == [-32700, -32600, -32600, -32700, -32700, -32700]


async def test_what_is_no_mcp_at_all_is_a_bad_request_over_http(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)

    async def answer(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
        writer.close()
        await writer.wait_closed()
        return line

    async with place.served("streamable-http") as (server, caller):
        port = getattr(server, "port")  # noqa: B009
        head = f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n".encode()
        head += b"accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\n"
        for body in (b"garbage", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000):
            request = head + f"content-length: {len(body)}\r\n\r\n".encode() + body
            assert b" 400 " in await answer(port, request), body[:20]
        assert b" 413 " in await answer(port, head + b"content-length: 99999999999\r\n\r\n")
        # A web page must not reach a local server through the user's browser (DNS rebinding).
        elsewhere = head.replace(f"127.0.0.1:{port}".encode(), b"evil.example") + b"content-length: 2\r\n\r\n{}"
        assert b" 421 " in await answer(port, elsewhere)
        assert b" 404 " in await answer(port, f"GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert await still_serves(caller)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_odd_text_is_kept_as_it_is(tmp_path: Path, transport: str) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    odd = "null \0 snow ☃ clef 𝄞 quote \" ' line\u2028end"
    server: Process
    async with place.served(transport) as (server, caller):
        ticket = await caller.submit("measure", {"text": odd}, idempotency_key="ключ ☃")
        assert (await caller.settled(ticket["task_ref"]))["result"] == len(odd)
        if isinstance(server, StdioServer):
            assert server.stray == []
