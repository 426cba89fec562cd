"""JWTs at a real server, with a real issuer: which are taken and refused, and what an issuer may do meanwhile."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from auth.callers import FUNCTIONS, TOML, ModernCaller, bearer, opening, over_sse
from auth.issuer import AUDIENCE, Issuer, Key
from operations.http_server import Received, Server, answer, serving

from support.serving import HttpServer, Refused, Workplace
from support.waiting import PATIENCE

OTHER_KEY = Key("k1")


class Place:
    """A server that takes an issuer's JWTs."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.issuer = Issuer(Key("k1"))
        self.client = httpx2.AsyncClient(timeout=PATIENCE)
        self.server: HttpServer
        self.door: Server

    async def start(self, *settings: str, toml: str = "", transport: str = "streamable-http") -> HttpServer:
        self.door = await self._stack.enter_async_context(serving(self._handle))
        self.issuer.at(self.door)
        workplace = Workplace(self._folder, TOML + self.issuer.toml(*settings) + toml, FUNCTIONS)
        self.server = await self._stack.enter_async_context(workplace.http(transport=transport))
        return self.server

    async def _handle(self, request: Received, writer: asyncio.StreamWriter) -> None:
        await self.issuer.handle(request, writer)

    async def status(self, token: str) -> int:
        headers = {"accept": "application/json, text/event-stream", **bearer(token)}
        return (await self.client.post(self.server.url, json=opening(), headers=headers)).status_code

    def fetched(self, path: str = "/keys") -> int:
        return sum(request.target == path for request in self.door.received)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        place = Place(tmp_path, stack)
        await stack.enter_async_context(place.client)
        yield place


def unsigned(claims: dict[str, Any], header: dict[str, Any], secret: bytes = b"") -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signed = b".".join(parts)
    signature = hmac.new(secret, signed, hashlib.sha256).digest() if secret else b""
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


async def test_a_jwt_is_taken_only_where_everything_about_it_is_right(place: Place) -> None:
    server = await place.start()
    make, now = place.issuer.token, int(time.time())
    claims = {"iss": place.issuer.url, "aud": AUDIENCE, "sub": "ada", "exp": now + 60}
    key = place.issuer.keys[0]
    public = json.dumps(key.jwk).encode()
    wrong = {
        "expired": make(exp=now - 60),
        "never expires": make(exp=None),
        "not yet": make(nbf=now + 120),
        "from the future": make(iat=now + 120),
        "for another service": make(aud="https://other.example.com"),
        "for nobody": make(aud=None),
        "of another issuer": make(iss="https://other.example.com"),
        "of no issuer": make(iss=None),
        "of nobody": make(None),
        "signed by another key": make(key=OTHER_KEY),
        "an odd subject": make(jti=["x"]),
        "an infinite expiry": make(exp=float("inf")),
        "an expiry that is a text": make(exp=str(now + 60)),
        "no signature": unsigned(claims, {"alg": "none"}),
        "no signature, a kid": unsigned(claims, {"alg": "None", "kid": "k1"}),
        "the public key as a secret": unsigned(claims, {"alg": "HS256", "kid": "k1"}, public),
        "no algorithm": unsigned(claims, {"kid": "k1"}),
        "an odd algorithm": unsigned(claims, {"alg": ["ES256"], "kid": "k1"}),
        "an odd kid": unsigned(claims, {"alg": "ES256", "kid": {"a": 1}}),
        "a critical extension": jwt.encode(
            claims, key.private, algorithm="ES256", headers={"kid": "k1", "crit": ["x"], "x": 1}
        ),
        "of a kind that is not asked for": jwt.encode(claims, Key("k1", "RS256").private, algorithm="RS512"),
        "cut off": make()[:-10],
        "nested": unsigned(claims, {"alg": "ES256"}).replace(".", ".W1tb", 1),
        "deep": base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.eA",
        "long": "a." + "b" * 30000 + ".c",
        "no jwt": "..",
    }
    assert {name: await place.status(token) for name, token in wrong.items()} == dict.fromkeys(wrong, 401)
    assert await place.status(make()) == 200
    assert await place.status(make(exp=now - 20)) == 200, "within the leeway"
    assert await place.status(make(aud=[AUDIENCE, "other"])) == 200
    assert place.fetched() == 1
    for token in wrong.values():
        assert token not in server.log
    assert "Traceback" not in server.log
    assert server.log.count("refused a JWT that could not be read: TypeError") == 1
    assert server.log.count("could not be read") == 1, "of the others it is known what is wrong"


async def test_the_subject_is_the_principal_and_the_client_where_there_is_none(place: Place) -> None:
    server = await place.start()

    def caller(token: str) -> ModernCaller:
        return ModernCaller(place.client, server.url, token)

    make = place.issuer.token
    ref = (await caller(make("ada", client_id="web")).run("say", {"word": "hi"}))["task_ref"]
    assert (await caller(make("ada", client_id="cli")).status(ref))["result"] == "hi"
    for token in (make("bob"), make(None, client_id="ada"), make("ada|")):
        with pytest.raises(Refused):
            await caller(token).status(ref)
    of_client = (await caller(make(None, azp="bot")).submit("say", {"word": "hi"}))["task_ref"]
    assert (await caller(make(None, client_id="bot")).status(of_client))["task_ref"] == of_client


async def test_a_jwt_opens_sse_too(place: Place) -> None:
    server = await place.start(transport="sse")
    async with over_sse(place.client, server.url, place.issuer.token()) as caller:
        assert (await caller.ask("tasks/list"))["result"]["tasks"] == []
    assert (await place.client.get(server.url, headers=bearer(place.issuer.token(key=OTHER_KEY)))).status_code == 401


async def test_a_missing_scope_is_403_and_tokens_of_the_settings_have_every_scope(place: Place) -> None:
    digest = hashlib.sha256(b"t" * 20).hexdigest()
    await place.start(
        'required_scopes = ["tools.call"]', toml=f'[server.auth.tokens]\nada = "sha256:{digest.upper()}"\n'
    )
    assert await place.status(place.issuer.token()) == 403
    assert await place.status(place.issuer.token(scope="a tools.call")) == 200
    assert await place.status(place.issuer.token(scp=["tools.call"])) == 200
    assert await place.status(place.issuer.token(scope={"tools.call": 1})) == 403
    assert await place.status("t" * 20) == 200


async def test_who_has_no_token_learns_where_to_get_one(place: Place) -> None:
    server = await place.start('required_scopes = ["tools.call"]', f'resource_url = "{AUDIENCE}/x"')
    refused = await place.client.post(server.url, json=opening())
    assert refused.status_code == 401
    told = refused.headers["www-authenticate"]
    assert told.startswith("Bearer ")
    path = "/.well-known/oauth-protected-resource/mcp/x"
    assert f'resource_metadata="https://tools.example.com{path}"' in told
    metadata = (await place.client.get(server.url.replace("/mcp", path))).json()
    assert metadata["resource"] == f"{AUDIENCE}/x"
    assert metadata["authorization_servers"] == [place.issuer.url]
    assert metadata["scopes_supported"] == ["tools.call"]


async def test_a_new_key_is_found_and_an_old_one_is_not_taken_any_more(place: Place) -> None:
    await place.start()
    old = place.issuer.keys[0]
    assert await place.status(place.issuer.token()) == 200
    place.issuer.keys = [Key("k2", "RS256")]
    until = time.monotonic() + PATIENCE
    while await place.status(place.issuer.token()) != 200:  # Keys were fetched a moment ago: there is a pause.
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    assert place.fetched() == 2
    assert await place.status(place.issuer.token(key=old)) == 401


async def test_an_issuer_that_is_down_is_401_at_first_and_no_matter_later(place: Place) -> None:
    server = await place.start()
    place.issuer.answers["/keys"] = answer(503)
    assert await place.status(place.issuer.token()) == 401
    assert f"cannot get the keys of the issuer {place.issuer.url}: HTTP status 503" in server.log
    del place.issuer.answers["/keys"]
    until = time.monotonic() + PATIENCE
    while await place.status(place.issuer.token()) != 200:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    place.issuer.answers["/keys"] = answer(503)
    assert await place.status(place.issuer.token("bob")) == 200
    assert await place.status(place.issuer.token(key=Key("k9"))) == 401


async def test_while_an_issuer_is_slow_others_are_served_and_the_wait_ends(place: Place) -> None:
    asked, going_on = asyncio.Event(), asyncio.Event()

    async def slowly(request: Received, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await going_on.wait()

    digest = hashlib.sha256(b"t" * 20).hexdigest()
    await place.start(toml=f'[server.auth.tokens]\nada = "sha256:{digest}"\n')
    place.issuer.handle = slowly
    waiting = [asyncio.create_task(place.status(place.issuer.token())) for _ in range(5)]
    await asyncio.wait_for(asked.wait(), PATIENCE)
    assert await place.status("t" * 20) == 200
    assert not any(each.done() for each in waiting)
    assert await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE) == [401] * 5
    assert len(place.door.received) == 1
    going_on.set()
