"""Whoever has shown nothing gets nothing read, on every path; hosts, origins and bearers are looked at first."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from auth.callers import ModernCaller, bearer, legacy
from auth.issuer import Issuer, Key
from front.wire import call, head, of_call, result_of, wired
from operations.http_server import serving

from support.serving import HttpServer, Workplace, calling
from support.waiting import PATIENCE

FUNCTIONS = '''
import asyncio
from raincheck import TaskContext

def say(word: str) -> str:
    return word

async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"

async def approval(context: TaskContext) -> None:
    """Ask a person."""
    with open("addresses.txt", "a") as file:
        print(await context.callback_url(), file=file, flush=True)
    await context.await_external()
'''
TOML = """
[operations.say]
kind = "python"
target = "ops:say"
mode = "inline"

[operations.nap]
kind = "python"
target = "ops:nap"
mode = "inline"

[operations.approval]
kind = "python"
target = "ops:approval"
mode = "task"
"""
TOKEN = "ada-" + "a" * 28
TOKENS = '[server.auth.tokens]\nada = "${ADA}"\n'
MUCH = "content-length: 16777216"


def place(folder: Path, server: str = "", auth: str = "") -> Workplace:
    return Workplace(folder, f"[server]\n{server}\n{auth}\n{TOML}", FUNCTIONS)


@asynccontextmanager
async def called_back(folder: Path, server: str = "") -> AsyncGenerator[tuple[HttpServer, str, str]]:
    """A server, a task of it that waits, and the task's token."""
    workplace = place(folder, f'public_url = "http://tools.example.com"\n{server}')
    async with workplace.http() as running, calling(running.port) as caller:
        task_ref = (await caller.submit("approval"))["task_ref"]
        file = folder / "addresses.txt"
        while not (file.exists() and file.read_text().endswith("\n")):
            await caller.status(task_ref, 0.05)
        yield running, task_ref, file.read_text().strip().rpartition("/")[2]


async def test_a_callback_is_refused_by_its_token_before_anything_is_read(tmp_path: Path) -> None:
    async with called_back(tmp_path) as (server, task_ref, token):
        unknown = f"/callbacks/{'x' * 43}"
        firsts = [head(unknown, MUCH), head(unknown, "transfer-encoding: chunked"), head("/callbacks/x", MUCH)]
        async with wired(server.port, *firsts) as wires:
            answers = [await wire.answer() for wire in wires]
            assert {(each.status, each.body, each.headers["connection"]) for each in answers} == {
                (404, '{"status": "unknown", "message": "there is no such callback"}', "close")
            }
        # One body of a token at a time; another one comes too late.
        whole = json.dumps({"status": "completed", "result": 1}).encode()
        address = head(f"/callbacks/{token}", f"content-length: {len(whole)}")
        async with wired(server.port, address) as (slow,):
            while True:
                async with wired(server.port, address + whole[:1]) as (beside,):
                    if (answer := await beside.answer()).status == 503:
                        break
            assert "another call with this token" in answer.body
            slow.writer.write(whole)
            assert (await slow.answer()).status == 200
        async with wired(server.port, head(f"/callbacks/{token}", MUCH)) as (late,):
            assert (await late.answer()).status == 410
        async with calling(server.port) as caller:
            assert (await caller.status(task_ref))["result"] == 1


async def test_an_address_asks_the_store_for_few_unknown_tokens(tmp_path: Path) -> None:
    async with called_back(tmp_path) as (server, _, token):
        known = head(f"/callbacks/{token}", "content-length: 2") + b"{}"
        firsts = [head(f"/callbacks/{number:043}", MUCH) for number in range(40)]
        for _ in range(30):  # A known one costs nothing.
            async with wired(server.port, known) as (wire,):
                assert (await wire.answer()).status == 400
        async with wired(server.port, *[known] * 30) as wires:  # Nor do many at once.
            assert {(await wire.answer()).status for wire in wires} <= {400, 503}
        async with wired(server.port, *firsts) as wires:
            statuses = [(await wire.answer()).status for wire in wires]
        assert (statuses.count(404), statuses.count(429)) == (20, 20)


async def test_the_path_of_callbacks_is_there_only_where_it_is_used(tmp_path: Path) -> None:
    async with place(tmp_path, auth=TOKENS).http(env={"ADA": TOKEN}) as server:
        async with wired(server.port, head(f"/callbacks/{'x' * 43}", MUCH)) as (wire,):
            answer = await wire.answer()
        assert answer.status == 404
        assert "callback" not in answer.body


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_without_a_token_no_body_is_waited_for(tmp_path: Path, transport: str) -> None:
    async with place(tmp_path, auth=TOKENS).http(transport=transport, env={"ADA": TOKEN}) as server:
        short, wrong = "content-length: 500", "authorization: Bearer nobody-knows-this"
        paths = ["/mcp", "/mcp/"] if transport == "streamable-http" else ["/messages/"]
        firsts = [
            head(path, *lines, length, *more)
            for path in paths
            for lines in (of_call("say"), ("content-type: application/json",))
            for length in (short, MUCH, "transfer-encoding: chunked")
            for more in ((), (wrong,))
        ]
        async with wired(server.port, *firsts) as wires:
            assert {(await wire.answer()).status for wire in wires} == {401}
        others = [head(path, short, method=way) for path in ("/healthz", "/other") for way in ("POST", "GET")]
        async with wired(server.port, *others) as wires:
            assert [(await wire.answer()).status for wire in wires] == [405, 200, 404, 404]


async def test_large_bodies_wait_for_each_other_and_small_ones_for_nobody(tmp_path: Path) -> None:
    server_table = "max_body_bytes_under_way = 3000000\nbody_timeout_seconds = 20"
    async with place(tmp_path, server_table).http() as server:
        large = call("say", {"word": "x" * 2_000_000})
        head_only = large[: large.index(b"\r\n\r\n") + 4]
        async with wired(server.port, head_only) as (first,):
            await asyncio.sleep(0.2)
            async with wired(server.port, large) as (second,):
                with pytest.raises(TimeoutError):
                    await second.answer(0.5)
                # However long the number is in which it says how long it is.
                padded = large.replace(b"content-length: ", b"content-length: 0000000000")
                async with wired(server.port, padded) as (third,):
                    with pytest.raises(TimeoutError):
                        await third.answer(0.5)
                async with wired(server.port, call("say", {"word": "hi"})) as (small,):
                    assert result_of(await small.answer())["content"][0]["text"] == "hi"
                first.writer.write(large[len(head_only) :])
                assert (await first.answer()).status == 200
                assert (await second.answer()).status == 200
        # Nothing of the budget is lost.
        async with wired(server.port, large) as (again,):
            assert (await again.answer()).status == 200


async def test_an_anonymous_server_is_reached_by_its_address_and_by_no_web_page(tmp_path: Path) -> None:
    public = {"RAINCHECK_SERVER__HOST": "0.0.0.0", "RAINCHECK_SERVER__ALLOW_ANONYMOUS": "true"}
    async with place(tmp_path).http(env=public) as server:

        async def status(*lines: str, host: str = "192.0.2.7:8000", target: str = "/mcp") -> int:
            async with wired(server.port, call("say", {"word": "x"}, *lines, host=host, target=target)) as (wire,):
                return (await wire.answer()).status

        for host in ("192.0.2.7", "10.0.0.1:80", "[2001:db8::7]:8000", "localhost:8000", "LOCALHOST"):
            assert await status(host=host) == 200, host
        for host in ("evil.example.com", "raincheck:8000", "127.1", "2130706433", "192.0.2.7.example.com", "[x]"):
            assert await status(host=host) == 421, host
        for origin in ("https://evil.example.com", "http://192.0.2.7:8000", "http://localhost:3000", "null"):
            assert await status(f"origin: {origin}") == 403, origin
        assert await status("origin: https://evil.example.com", target="/callbacks") == 403


async def test_a_slash_at_the_end_is_no_redirect_to_whatever_host_says(tmp_path: Path) -> None:
    async with place(tmp_path).http() as server:
        for path in ("/mcp/", "/other/"):
            async with wired(server.port, call("say", {"word": "x"}, target=path, host="evil.example.com")) as (wire,):
                answer = await wire.answer()
            assert (answer.status, "location" in answer.headers) == (421, False)
        async with wired(server.port, call("say", {"word": "hi"}, target="/mcp/")) as (wire,):
            assert result_of(await wire.answer())["content"][0]["text"] == "hi"


async def test_two_bearers_are_refused_whichever_comes_first(tmp_path: Path) -> None:
    async with place(tmp_path, auth=TOKENS).http(env={"ADA": TOKEN}) as server:
        good, other = f"authorization: Bearer {TOKEN}", "authorization: Bearer nobody-knows-this"
        for lines, status in (([good], 200), ([good, other], 400), ([other, good], 400), ([good, good], 400)):
            async with wired(server.port, call("say", {"word": "x"}, *lines)) as (wire,):
                assert (await wire.answer()).status == status, lines


async def test_a_stream_ends_with_the_token_that_opened_it(tmp_path: Path) -> None:
    issuer, sse = Issuer(Key("k1")), tmp_path / "sse"
    sse.mkdir()
    async with serving(issuer.handle) as door, httpx2.AsyncClient(timeout=PATIENCE) as client:
        issuer.at(door)
        auth = issuer.toml("leeway_seconds = 0")
        async with place(tmp_path, 'public_url = "http://x"', auth).http() as server:
            expires = int(time.time()) + 4
            caller = ModernCaller(client, server.url, issuer.token(exp=expires))
            ref = (await caller.submit("approval"))["task_ref"]

            async def session() -> str:
                async with legacy(client, server.url, issuer.token(exp=expires)) as caller:
                    answer = await client.get(server.url, headers=caller.headers)
                    assert answer.status_code == 200
                    return answer.text

            async with asyncio.timeout(PATIENCE):
                heard, _ = await asyncio.gather(caller.listened(ref), session())
            assert {each.get("method", "the end") for each in heard} == {
                "notifications/subscriptions/acknowledged",
                "notifications/tasks",
            }
            assert time.time() >= expires
            assert "rror" not in server.log, server.log
        async with place(sse, "", auth).http(transport="sse") as server, httpx2.AsyncClient(timeout=PATIENCE) as client:
            expires = int(time.time()) + 4
            async with client.stream("GET", server.url, headers=bearer(issuer.token(exp=expires))) as stream:
                assert "endpoint" in "".join([line async for line in stream.aiter_lines()])
            assert time.time() >= expires


async def test_a_call_that_the_stop_breaks_off_is_answered_as_json(tmp_path: Path) -> None:
    async with place(tmp_path, "").http() as server:
        async with wired(server.port, call("nap", {"seconds": 60})) as (wire,):
            await asyncio.sleep(0.5)
            server.signal(signal.SIGTERM)
            answer = await wire.answer(20)
        assert (answer.status, answer.headers["content-type"]) == (503, "application/json")
        assert json.loads(answer.body)["error"]["message"] == "the server is stopping; call again"
        assert await server.exited() == 0
