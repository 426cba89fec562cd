"""When an issuer's keys are fetched, which are used, and that no token makes it more often than that."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from auth.issuer import Issuer, Key
from jwt.algorithms import ECAlgorithm
from operations.http_server import answer, serving

from raincheck.mcp.auth.jwks import IssuerKeys


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Documents:
    """What is fetched, in place of an issuer."""

    def __init__(self, *keys: Key) -> None:
        self.keys = [key.jwk for key in keys]
        self.fetched = 0
        self.broken = False
        self.hold: asyncio.Event | None = None

    async def __call__(self, url: str) -> Any:
        self.fetched += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.broken:
            raise ConnectionRefusedError
        return {"keys": self.keys}


def kids(keys: IssuerKeys, kid: str | None, algorithm: str = "ES256") -> list[str | None]:
    return [key.key_id for key in keys.matching(kid, algorithm)]


async def settled() -> None:
    for task in [task for task in asyncio.all_tasks() if task.get_name() == "raincheck issuer keys"]:
        await task


async def test_unknown_keys_cause_one_request_and_then_a_pause() -> None:
    clock, documents = Clock(), Documents(Key("a"))
    keys = IssuerKeys("https://i", "https://i/k", fetch=documents, clock=clock)
    await keys.ready()
    for _ in range(20):
        assert not await keys.refresh()
    assert documents.fetched == 1
    clock.now += 5
    assert await keys.refresh()
    assert documents.fetched == 2


async def test_many_callers_share_one_request_and_one_that_leaves_does_not_end_it() -> None:
    documents = Documents(Key("a"))
    documents.hold = asyncio.Event()
    keys = IssuerKeys("https://i", "https://i/k", fetch=documents, clock=Clock())
    callers = [asyncio.create_task(keys.ready()) for _ in range(10)]
    while not documents.fetched:
        await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.wait({callers[0]})
    documents.hold.set()
    await asyncio.gather(*callers[1:])
    assert documents.fetched == 1
    assert kids(keys, "a") == ["a"]


async def test_old_keys_are_renewed_while_they_are_used_and_dropped_when_they_cannot_be() -> None:
    clock, documents = Clock(), Documents(Key("a"))
    keys = IssuerKeys("https://i", "https://i/k", fetch=documents, clock=clock)
    await keys.ready()
    documents.keys = [Key("b").jwk]
    clock.now += 601
    await keys.ready()
    assert kids(keys, "a") == ["a"], "nobody waits for it"
    await settled()
    assert (kids(keys, "a"), kids(keys, "b")) == ([], ["b"])
    documents.broken = True
    clock.now += 3600
    await keys.ready()
    await settled()
    assert kids(keys, "b") == ["b"]
    clock.now += 86400
    await keys.ready()
    assert kids(keys, "b") == []


async def test_a_key_is_used_for_what_it_is_made_for_only() -> None:
    documents = Documents(Key("ec"), Key("rsa", "RS256"), Key("okp", "EdDSA"), Key(None))
    private = {**json.loads(ECAlgorithm.to_jwk(Key("private").private)), "kid": "private"}
    documents.keys += [
        {**Key("enc").jwk, "use": "enc"},
        {**Key("es384").jwk, "alg": "ES384"},
        {"kty": "oct", "kid": "oct", "k": "AAAA"},
        {"kty": "EC", "kid": "broken", "crv": "P-256", "x": 5},
        {"kid": "nothing"},
        private,
    ]
    keys = IssuerKeys("https://i", "https://i/k", fetch=documents, clock=Clock())
    await keys.ready()
    assert kids(keys, None) == ["ec", None]
    assert kids(keys, "rsa", "RS256") == ["rsa"]
    assert kids(keys, "rsa", "PS256") == ["rsa"]
    assert kids(keys, "okp", "EdDSA") == ["okp"]
    for kid in ("enc", "es384", "oct", "broken", "nothing", "private", "rsa", "okp"):
        assert kids(keys, kid) == [], kid
    assert kids(keys, "oct", "HS256") == []


async def test_the_keys_address_comes_from_the_issuers_metadata() -> None:
    issuer = Issuer(Key("a"))
    async with serving(issuer.handle) as server:
        issuer.at(server)
        keys = IssuerKeys(issuer.url, None)
        await keys.ready()
        assert kids(keys, "a") == ["a"]
        assert [request.target for request in server.received] == [
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
            "/keys",
        ]


@pytest.mark.parametrize(
    ("metadata", "answers", "told"),
    [
        ({"issuer": "https://other.example.com"}, {}, "its metadata names another issuer"),
        ({"jwks_uri": "http://other.example.com/keys"}, {}, "it must begin with https://"),
        ({"jwks_uri": 5}, {}, "its metadata has no jwks_uri"),
        ({}, {"/keys": answer(302, location="/elsewhere")}, "HTTP status 302"),
        ({}, {"/keys": answer(body="<html>")}, "the answer is no JSON"),
        ({}, {"/keys": answer(body=[])}, "the answer is no key set"),
        ({}, {"/keys": answer(body={"keys": []})}, "there is no public signing key in it"),
        ({}, {"/keys": answer(body=b"[" * 100_000)}, ""),
        ({}, {"/keys": answer(body=b" " * 2_000_000)}, "the answer is too large"),
    ],
)
async def test_an_issuer_that_answers_wrongly_gives_no_keys_and_a_line_in_the_log(
    metadata: dict[str, Any], answers: dict[str, bytes], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer(Key("a"))
    issuer.metadata, issuer.answers = metadata, answers
    async with serving(issuer.handle) as server:
        keys = IssuerKeys(issuer.at(server).url, None)
        await keys.ready()
    assert kids(keys, None) == []
    (record,) = [record for record in caplog.records if record.name == "raincheck.mcp.auth.jwks"]
    assert record.getMessage().startswith(f"cannot get the keys of the issuer {issuer.url}: {told}")


async def test_an_issuer_that_is_not_there_gives_no_keys_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Issuer().handle) as server:
        gone = server.url
    keys = IssuerKeys(gone, None)
    await keys.ready()
    assert kids(keys, None) == []
    assert "cannot get the keys of the issuer" in caplog.text
