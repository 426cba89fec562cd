"""Who called, inside the operation: on every way to it, with its token where it asks, and for nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from auth.callers import ModernCaller, legacy
from auth.issuer import Issuer, Key
from operations.http_server import Received, Server, answer, serving

from raincheck.encryption.cipher import new_key
from support.serving import HttpServer, Process, Refused, Workplace

FUNCTIONS = """
import hashlib, os
from mcp.server.auth.middleware.auth_context import get_access_token
from raincheck import TaskContext

def told(context):
    caller, seen = context.caller, get_access_token()
    return {
        "pid": os.getpid(), "scope": caller.scope, "subject": caller.subject, "issuer": caller.issuer,
        "client_id": caller.client_id, "tenant": caller.claims.get("tenant"), "email": caller.claims.get("email"),
        "client_name": caller.client_name, "headers": dict(caller.headers),
        "token": caller.token and hashlib.sha256(caller.token.encode()).hexdigest(),
        "sdk": seen and [seen.subject, seen.claims["tenant"], hashlib.sha256(seen.token.encode()).hexdigest()],
    }

async def who(context: TaskContext) -> dict:
    return told(context)

def who_in_a_thread(context: TaskContext) -> dict:
    return told(context)

def who_isolated(context: TaskContext) -> dict:
    return told(context)

async def plain(context: TaskContext) -> dict:
    return told(context)

async def wait_for_ever(context: TaskContext) -> dict:
    await context.elicit("Go on?", {"type": "object", "properties": {"yes": {"type": "boolean"}}})
    return told(context)

async def leaks(context: TaskContext) -> dict:
    raise ValueError(f"refused by the upstream: Bearer {context.caller.token}")
"""

ASKS = 'caller_claims = ["tenant"]\ncaller_token = true\nforward_headers = ["X-Region"]\n'


def operation(name: str, target: str, more: str = "", *, asks: str = ASKS) -> str:
    return f'[operations.{name}]\nkind = "python"\ntarget = "ops:{target}"\ndescription = "Who?"\n{asks}{more}\n'


TOML = "\n".join(
    [
        '[encryption]\nkeys = ["${SEAL_KEY}"]\n',
        operation("who", "who", 'mode = "task"'),
        operation("who_auto", "who"),
        operation("who_inline", "who", 'mode = "inline"'),
        operation("who_in_a_thread", "who_in_a_thread"),
        operation("who_isolated", "who_isolated", 'isolation = "process"'),
        operation("plain", "plain", asks=""),
        operation("once", "who", 'mode = "task"\ndedupe = "inflight"'),
        operation("held", "wait_for_ever", 'mode = "task"\ndedupe = "inflight"'),
        operation("leaks", "leaks"),
        operation("writers_only", "plain", 'required_scopes = ["reports.write"]', asks=""),
        operation("bobs_only", "plain", "callers = ['principal:iss=*|sub=bob']", asks=""),
        """[operations.forwarded]
kind = "http"
method = "POST"
url = "${UPSTREAM}/users/{caller.subject}?tenant={caller.claims.tenant}"
headers = {Authorization = "Bearer {caller.token}", X-Region = "{caller.headers.x-region}", C = "{caller.client_name}"}
body = {who = "{caller.subject}", path = "{path}"}
parameters = {path = {type = "string"}}
description = "Ask the upstream."
"""
        + ASKS,
        """[operations.followed]
kind = "http"
method = "POST"
url = "${UPSTREAM}/exports"
headers = {Authorization = "Bearer {caller.token}"}
body = {name = "{name}"}
parameters = {name = {type = "string"}}
description = "Begin it upstream, and follow it."
"""
        + ASKS
        + """[operations.followed.poll]
status_url = "/exports/{$.id}?for={caller.subject}"
cancel_url = "/exports/{$.id}?for={caller.subject}"
state = "$.state"
done = ["done"]
failed = ["failed"]
error = "$.error"
interval_seconds = 0.1
""",
    ]
)


LONG = "/exports/long?for=bob"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


def echo(request: Received, at: int) -> str:
    """A text with what the request was allowed by, cut where so many characters are kept of either end."""
    allowed = request.headers["authorization"]
    return f"{allowed}{'.' * (at - 40)}{allowed}{'.' * (at - 40)}"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Regional(ModernCaller):
    """A caller whose requests say where they come from."""

    def __init__(self, client: httpx2.AsyncClient, url: str, token: str, region: str) -> None:
        super().__init__(client, url, token)
        self.token = token
        self.region = region
        client.headers["x-region"] = region
        client.headers["x-other"] = "not asked for"


class Place:
    """A server that takes an issuer's JWTs, and the API that its operation asks."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.issuer = Issuer(Key("k1"))
        self.workplace = Workplace(folder, "", FUNCTIONS)
        self.env = {"SEAL_KEY": new_key()}
        self.upstream: Server
        self.server: HttpServer
        self.logs: list[Process] = []

    async def start(self, *, runs: bool = True) -> None:
        self.upstream = await self.stack.enter_async_context(serving(self._handle))
        self.issuer.at(self.upstream)
        self.env["UPSTREAM"] = self.upstream.url
        more = {} if runs else {"RAINCHECK_EXECUTION__MAX_CONCURRENCY": "0"}
        (self.workplace.folder / "raincheck.toml").write_text(TOML + self.issuer.toml())
        self.server = await self.stack.enter_async_context(self.workplace.http(env={**self.env, **more}))
        self.logs.append(self.server)

    async def work(self) -> Process:
        worker = await self.stack.enter_async_context(self.workplace.command("worker", env=self.env))
        self.logs.append(worker)
        return worker

    async def _handle(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if request.target.startswith("/users/"):
            path = request.json["path"]
            if path == "/echo":
                writer.write(answer(500, body=echo(request, 2048)))
            else:
                writer.write(answer(307, location="/elsewhere") if path == "/moved" else answer(body={"ok": True}))
        elif request.target.startswith("/exports"):
            ends = {"/exports/short": "done", "/exports/broken": "failed"}
            state = ends.get(request.target.partition("?")[0], "running")
            name = request.json["name"] if request.method == "POST" else None
            writer.write(answer(body={"id": name, "state": state, "error": echo(request, 490)}))
        elif request.target == "/elsewhere":
            writer.write(answer(body={"followed": True}))
        else:
            await self.issuer.handle(request, writer)

    async def caller(self, subject: str, region: str, **claims: Any) -> Regional:
        client = await self.stack.enter_async_context(httpx2.AsyncClient(timeout=30))
        token = self.issuer.token(subject, tenant=f"{subject}'s", email=f"{subject}@example.com", **claims)
        return Regional(client, self.server.url, token, region)

    def check_nothing_leaked(self, *tokens: str) -> None:
        """No token in a log, in any form that a store could have it, or in what a person is shown."""
        files = [each for each in self.workplace.database.parent.rglob("*") if each.is_file()]
        on_disk = b"".join(each.read_bytes() for each in files) + "".join(each.log for each in self.logs).encode()
        for token in tokens:
            for part in (token, *token.split(".")[1:]):
                assert part.encode() not in on_disk
        assert b"@example.com" not in on_disk


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(tmp_path, stack)


async def test_an_operation_knows_its_caller_on_every_way_to_it(place: Place) -> None:
    await place.start()
    callers = [await place.caller("ada", "north"), await place.caller("bob", "south")]

    def expected(caller: Regional, subject: str, *, sdk: bool = True) -> dict[str, Any]:
        hashed = digest(caller.token)
        url = place.issuer.url.replace(":", "%3A").replace("/", "%2F")
        return {
            "scope": f"principal:iss={url}|sub={subject}",
            "subject": subject,
            "issuer": place.issuer.url,
            "client_id": subject,
            "tenant": f"{subject}'s",
            "email": None,
            "client_name": "tests",
            "headers": {"x-region": caller.region},
            "token": hashed,
            "sdk": [subject, f"{subject}'s", hashed] if sdk else None,
        }

    for subject, caller in zip(("ada", "bob"), callers, strict=True):
        seen: dict[str, dict[str, Any]] = {}
        for name in ("who", "who_in_a_thread", "who_isolated"):
            seen[name] = (await caller.run(name))["result"]
        for name in ("who_auto", "who_inline"):
            seen[name] = await caller.call(name)
        created = (await caller.send("tools/call", {"name": "who", "arguments": {}}, "who", tasks=True)).json()
        task_id = created["result"]["taskId"]
        while (task := (await caller.about("tasks/get", task_id))["result"])["status"] == "working":
            await asyncio.sleep(0.02)
        seen["extension"] = task["result"]["structuredContent"]
        async with (
            httpx2.AsyncClient(timeout=30, headers={"x-region": caller.region}) as client,
            legacy(client, place.server.url, caller.token) as old,
        ):
            handle = await old.ask("tools/call", name="who", arguments={}, task={"ttl": 60000})
            result = await old.ask("tasks/result", taskId=handle["result"]["task"]["taskId"])
            seen["core"] = result["result"]["structuredContent"]
        for name, told in seen.items():
            told.pop("pid")
            assert told == expected(caller, subject, sdk=name != "who_isolated"), name
        bare = (await caller.run("plain"))["result"]
        assert (bare["subject"], bare["token"], bare["sdk"], bare["headers"], bare["tenant"]) == (
            *(subject, None, None, {}),
            None,
        )
        # The operator sees who called, and nothing it called with.
        ref = (await caller.submit("who"))["task_ref"]
        _, shown, _ = await place.workplace.raincheck("tasks", "show", ref, "--json", env=place.env)
        assert json.loads(shown)["caller"] == {
            "subject": subject,
            "issuer": place.issuer.url,
            "client_id": subject,
            "claims": {"tenant": f"{subject}'s"},
            "client_name": "tests",
        }
        failed = await caller.run("leaks")
        assert caller.token not in json.dumps(failed)
        assert failed["error"]["message"] == "refused by the upstream: Bearer (withheld)"
    place.check_nothing_leaked(*(caller.token for caller in callers))


async def test_another_worker_has_the_caller_too_until_its_token_expires(place: Place) -> None:
    await place.start(runs=False)
    ada = await place.caller("ada", "north")
    # Thirty seconds of leeway are the issuer's clock's.
    until = int(time.time()) + 3
    old = await place.caller("ada", "north", exp=until - 30)
    too_late, in_time = (await old.submit("who"))["task_ref"], (await ada.submit("who"))["task_ref"]
    while time.time() < until:
        await asyncio.sleep(0.1)
    worker = await place.work()
    told = (await ada.settled(in_time))["result"]
    assert told["pid"] == worker.pid != place.server.pid
    assert (told["subject"], told["token"], told["sdk"][0]) == ("ada", digest(ada.token), "ada")
    failed = await ada.settled(too_late)
    assert failed["error"]["code"] == "operation_failed"
    assert failed["error"]["message"].startswith("The caller's token expired before the operation ran")
    place.check_nothing_leaked(ada.token, old.token)


async def test_callers_with_other_tokens_share_no_task_and_the_same_call_twice_does(place: Place) -> None:
    await place.start()
    ada, again = await place.caller("ada", "north"), await place.caller("ada", "south")
    bob = await place.caller("bob", "north")
    refs = [(await each.submit("held"))["task_ref"] for each in (ada, ada, again, bob)]
    assert refs[0] == refs[1]
    assert len(set(refs)) == 3


async def test_who_may_not_call_neither_sees_an_operation_nor_runs_it(place: Place) -> None:
    await place.start()
    ada, bob = await place.caller("ada", "north"), await place.caller("bob", "north", scope="reports.write other")
    sees = {name: {"ada": False, "bob": True} for name in ("writers_only", "bobs_only")}
    for name, caller in (("ada", ada), ("bob", bob)):
        listed = {tool["name"] for tool in (await caller.request("tools/list", {}))["tools"]}
        assert {each: each in listed for each in sees} == {each: sees[each][name] for each in sees}
        async with httpx2.AsyncClient(timeout=30) as client, legacy(client, place.server.url, caller.token) as old:
            listed = {tool["name"] for tool in (await old.ask("tools/list"))["result"]["tools"]}
            assert {each: each in listed for each in sees} == {each: sees[each][name] for each in sees}
            core = await old.ask("tools/call", name="bobs_only", arguments={}, task={})
            assert ("error" in core) is (name == "ada"), core
    lacks = "Operation 'writers_only' is not open to you: your token lacks the scope reports.write."
    for operation_type, message in (
        ("writers_only", lacks),
        ("bobs_only", "Operation 'bobs_only' is not open to you."),
    ):
        for refused_call in (ada.submit(operation_type), ada.call(operation_type)):
            with pytest.raises(Refused) as refused:
                await refused_call
            assert (refused.value.code, refused.value.message) == ("unknown_operation", message)
        extension = await ada.send("tools/call", {"name": operation_type, "arguments": {}}, operation_type, tasks=True)
        assert message in extension.text
        assert (await bob.run(operation_type))["status"] == "completed"
    with pytest.raises(Refused, match="Known") as unknown:
        await ada.submit("nothing")
    assert not set(unknown.value.error["details"]["known"]) & set(sees)
    assert (await ada.call("list_background_tasks"))["tasks"] == []


async def test_a_request_says_who_called_and_hands_the_token_to_the_declared_server_alone(place: Place) -> None:
    await place.start()
    for subject in ("ada", "bob"):
        caller = await place.caller(subject, "north")
        assert (await caller.run("forwarded", {"path": "/"}))["result"] == {"ok": True}
        got = place.upstream.received[-1]
        assert got.target == f"/users/{subject}?tenant={subject}%27s"
        assert got.json == {"who": subject, "path": "/"}
        assert got.headers["authorization"] == f"Bearer {caller.token}"
        assert (got.headers["x-region"], got.headers["c"]) == ("north", "tests")
        moved = await caller.run("forwarded", {"path": "/moved"})
        assert moved["error"]["code"] == "upstream_error"
        assert "does not follow" in moved["error"]["message"]
        place.check_nothing_leaked(caller.token)
    # What an API repeats of its request is cut with the token gone already.
    for name, parameters in (("forwarded", {"path": "/echo"}), ("followed", {"name": "broken"})):
        broken = await caller.run(name, parameters)
        assert broken["error"]["code"] == "upstream_error"
        for part in (caller.token[-12:], caller.token[:12]):
            assert part not in json.dumps(broken)
    assert not [each for each in place.upstream.received if each.target == "/elsewhere"]
    assert (await caller.run("followed", {"name": "short"}))["error"] is None
    ref = (await caller.submit("followed", {"name": "long"}))["task_ref"]

    def asked() -> set[str]:
        return {each.method for each in place.upstream.received if each.target == LONG}

    await until(lambda: "GET" in asked())
    await caller.call("cancel_background_task", {"task_ref": ref})
    await until(lambda: bool({"POST", "DELETE"} & asked()))
    exports = [each for each in place.upstream.received if each.target.startswith("/exports")]
    assert {each.headers.get("authorization") for each in exports} == {f"Bearer {caller.token}"}
    place.check_nothing_leaked(caller.token)


async def test_an_operation_that_keeps_secrets_of_callers_needs_a_key(place: Place) -> None:
    toml = operation("who", "who", asks="caller_token = true\n")
    (place.workplace.folder / "raincheck.toml").write_text(toml)
    code, _, said = await place.workplace.raincheck("serve")
    assert code == 2, said
    assert "[operations.who] of raincheck.toml: caller_token keeps secrets of callers" in said
