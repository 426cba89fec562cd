"""What a server is open for: tokens, addresses, names; and that no token is ever told."""

from __future__ import annotations

import hashlib
import os
import pty
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from auth.callers import FUNCTIONS, TOML, bearer, opening
from docs.pages import DOCS, EXAMPLES

from raincheck.cli.main import main
from raincheck.config.loading import load_settings
from raincheck.config.sections.auth import hash_token, is_loopback
from raincheck.config.settings import Settings
from raincheck.errors import ConfigurationError
from raincheck.mcp.auth.verifiers import make_verifier
from support.command_line import Said
from support.serving import Workplace
from support.waiting import PATIENCE

TOKEN = "s3cret-" + "x" * 24
HASHED = f'[server.auth.tokens]\nada = "{hash_token(TOKEN)}"\n'
SSE = {"accept": "application/json, text/event-stream"}


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def anywhere() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # Nothing is sent.
        return probe.getsockname()[0]


@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_only_a_token_of_the_settings_opens_the_server_and_none_is_logged(
    tmp_path: Path, client: httpx2.AsyncClient, transport: str
) -> None:
    place = Workplace(tmp_path, TOML + HASHED + 'bob = "${BOB}"\n', FUNCTIONS)
    bob = "b" * 16
    wrong = [
        "x",
        TOKEN[:-1],
        f"{TOKEN}x",
        TOKEN.upper(),
        hash_token(TOKEN),
        "ada",
        "${BOB}",
        "x" * 20_000,
        "é" * 20,
    ]
    async with place.http("--log-level", "debug", transport=transport, env={"BOB": f"{bob}\n"}) as server:

        async def status(**headers: str) -> tuple[int, str]:
            if transport == "sse":
                async with client.stream("GET", server.url, headers=headers) as answer:
                    return answer.status_code, answer.headers.get("www-authenticate", "")
            answer = await client.post(server.url, json=opening(), headers={**SSE, **headers})
            return answer.status_code, answer.headers.get("www-authenticate", "")

        for refused in [{}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}, *map(bearer, wrong)]:
            headers = {name: value.encode() for name, value in refused.items()}
            code, told = await status(**headers)  # pyright: ignore[reportArgumentType]
            assert (code, told[:29]) == (401, 'Bearer error="invalid_token",'), refused
        for token in (TOKEN, bob):
            assert (await status(**bearer(token)))[0] == 200
        assert (await client.get(server.url.replace("/mcp", "/other"))).status_code in (401, 404)
        assert TOKEN not in server.log
        assert hash_token(TOKEN)[7:] not in server.log
        assert bob not in server.log


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
async def test_more_than_loopback_without_authentication_stops_the_start(tmp_path: Path, host: str) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    code, out, err = await place.raincheck("serve", "--transport", "streamable-http", "--port", "0", "--host", host)
    page = (DOCS / "auth.md").read_text(encoding="utf-8")
    assert (code, out) == (2, "")
    assert err.replace(host, "0.0.0.0", 1) in page


async def test_more_than_loopback_is_served_where_that_is_allowed(
    tmp_path: Path, client: httpx2.AsyncClient, anywhere: str
) -> None:
    place = Workplace(tmp_path, TOML, FUNCTIONS)
    allowed = {"RAINCHECK_SERVER__ALLOW_ANONYMOUS": "true"}
    for flags, environment in ((["--allow-anonymous"], {}), ([], allowed)):
        async with place.http("--host", "0.0.0.0", *flags, env=environment) as server:
            url = f"http://{anywhere}:{server.port}/mcp"
            assert (await client.post(url, json=opening(), headers=SSE)).status_code == 200
    (tmp_path / "raincheck.toml").write_text(TOML + HASHED)
    async with place.http("--host", "0.0.0.0") as server:
        url = f"http://{anywhere}:{server.port}/mcp"
        assert (await client.post(url, json=opening(), headers=SSE)).status_code == 401
        assert (await client.post(url, json=opening(), headers={**SSE, **bearer(TOKEN)})).status_code == 200


async def test_on_stdio_the_local_user_needs_no_token(tmp_path: Path) -> None:
    place = Workplace(tmp_path, TOML + '[server.auth.tokens]\nada = "${NOT_SET}"\n', FUNCTIONS)
    async with place.stdio("--host", "0.0.0.0") as server:
        assert (await server.run("say", {"word": "hi"}))["result"] == "hi"
        assert len((await server.call("list_background_tasks"))["tasks"]) == 1
    _, out, _ = await place.raincheck("tasks", "list", "--scope", "local", "--json")
    assert '"scope": "local"' in out


async def test_only_known_names_are_answered_so_that_web_pages_cannot_get_in(
    tmp_path: Path, client: httpx2.AsyncClient
) -> None:
    names = 'allowed_hosts = ["tools.example.com", "[::1]:8443"]\nallowed_origins = ["https://app.example.com"]\n'
    place = Workplace(tmp_path, f"[server]\n{names}{TOML}", FUNCTIONS)
    async with place.http() as server:

        async def status(**headers: str) -> int:
            return (await client.post(server.url, json=opening(), headers={**SSE, **headers})).status_code

        for good in ("127.0.0.1:1", "localhost", "tools.example.com", "tools.example.com:443", "[::1]:8443"):
            assert await status(host=good) == 200, good
        for bad in ("evil.example.com", "tools.example.com.evil.example", "0.0.0.0:80"):
            assert await status(host=bad) == 421, bad
        for good in ("http://localhost:3000", "https://app.example.com", "https://app.example.com:8443"):
            assert await status(origin=good) == 200, good
        for bad in ("https://evil.example.com", "null", "http://app.example.com"):
            assert await status(origin=bad) == 403, bad
    public = {"RAINCHECK_SERVER__HOST": "0.0.0.0", "RAINCHECK_SERVER__ALLOW_ANONYMOUS": "true"}
    async with place.http(env=public) as server:
        answers = {
            name: (
                await client.post(server.url.replace("0.0.0.0", "127.0.0.1"), json=opening(), headers=head)
            ).status_code
            for name, head in (("named", {**SSE, "host": "tools.example.com"}), ("by number", SSE))
        }
        assert answers == {"named": 200, "by number": 421}


def test_loopback_is_what_only_this_machine_reaches() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", "", "0"):
        assert not is_loopback(host), host


# Settings.

ISSUER = 'issuer = "https://login.example.com"\n'
PLAIN = "pl41n-secret-of-ada"


def settings(folder: Path, text: str, **environ: str) -> Settings:
    file = folder / "raincheck.toml"
    file.write_text(text)
    return load_settings(file, environ=environ)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f'[server.auth.tokens]\nada = "{PLAIN}"',
            "ada must be sha256:… (64 hex digits) or ${NAME}; hash a token with",
        ),
        (f'[server.auth]\ntokens = "{PLAIN}"', "invalid value for 'tokens' in [server.auth]"),
        (f'[server.auth]\ntokens = ["{PLAIN}"]', "invalid value for 'tokens' in [server.auth]"),
        (f'[server.auth.tokens.ada]\nx = "{PLAIN}"', "invalid value for 'tokens' in [server.auth]"),
        (f'[server.auth.tokens]\n"{PLAIN} !" = "ada"', "a caller's name has 1 to 64"),
        (f'[server]\nauth = "{PLAIN}"', "[server.auth] of"),
        (f'[server.auth]\nada = "{PLAIN}"', 'unknown key "ada" in [server.auth]'),
        ('[server.auth.tokens]\nada = "sha256:123"', "ada must be sha256:…"),
        ("[server.auth]", "nobody could call: neither 'tokens' nor 'issuer' is set in [server.auth]"),
        ("[server.auth]\n" + ISSUER, "'audience' is missing beside 'issuer'"),
        ('[server.auth]\naudience = "a"', "'audience' is for JWTs, and 'issuer' is missing"),
        (f'[server.auth]\naudience = "a"\nissuer = "https://ada:{PLAIN}@x"', "it must hold no user"),
        (f'[server.auth]\naudience = "a"\nissuer = "http://{PLAIN}"', "it must begin with https://"),
        (f'[server.auth]\naudience = "a"\nissuer = "{PLAIN}"', "it must be an address"),
        (f'[server.auth]\naudience = "a"\nissuer = "https://[{PLAIN}"', "it must be an address"),
        (f'[server.auth]\naudience = "a"\n{ISSUER}jwks_url = "ftp://{PLAIN}"', "it must be an address"),
        (f'[server.auth]\naudience = "a"\n{ISSUER}algorithms = ["HS256"]', 'allowed: a list of "RS256", '),
        (f'[server.auth]\naudience = "a"\n{ISSUER}algorithms = ["none"]', 'allowed: a list of "RS256", '),
        (f'[server.auth]\naudience = "a"\n{ISSUER}algorithms = []', "not empty"),
        (f'[server.auth]\naudience = "a"\n{ISSUER}leeway_seconds = 900', "a number from 0 up to 300"),
        (f'[server.auth]\naudience = "a"\n{ISSUER}required_scopes = ["a b"]', "one OAuth scope, without a space"),
        ("[server]\nallow_anonymous = true\n" + HASHED, "'allow_anonymous' and [server.auth] exclude each other"),
        ('[server]\nallow_anonymous = "yes"', "allowed: true or false"),
        ('[server]\nallowed_hosts = ["https://x"]', "a host's name, or name:port"),
        ('[server]\nallowed_hosts = ["*"]', "a host's name, or name:port"),
        ('[server]\nallowed_origins = ["x.example.com"]', "an origin as browsers send it"),
        ('[server]\nhost = "0.0.0.0"\nallowed_origins = ["https://x"]', "'allowed_origins' needs 'allowed_hosts'"),
    ],
)
def test_a_wrong_setting_is_one_line_that_repeats_no_secret(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(tmp_path, text)
    assert told in caught.value.message
    assert len(caught.value.message.splitlines()) == 1
    assert PLAIN not in caught.value.message


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("RAINCHECK_SERVER__AUTH__TOKENS", PLAIN, "invalid value for 'tokens' in [server.auth] of the environment"),
        ("RAINCHECK_SERVER__AUTH__TOKENS", f'{{"ada": "{PLAIN}"}}', "ada must be sha256:…"),
        ("RAINCHECK_SERVER__AUTH", PLAIN, "invalid value for 'auth' in [server] of the environment"),
        ("RAINCHECK_SERVER__AUTH__TOKEN", PLAIN, "did you mean TOKENS?"),
    ],
)
def test_a_wrong_variable_is_one_line_that_repeats_no_secret(
    tmp_path: Path, variable: str, value: str, told: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(tmp_path, "", **{variable: value})
    assert told in caught.value.message
    assert PLAIN not in caught.value.message


def test_authentication_may_come_from_the_environment_whole(tmp_path: Path) -> None:
    environ = {
        "RAINCHECK_SERVER__AUTH__ISSUER": "https://login.example.com",
        "RAINCHECK_SERVER__AUTH__AUDIENCE": "tools",
        "RAINCHECK_SERVER__AUTH__ALGORITHMS": '["ES256"]',
        "RAINCHECK_SERVER__AUTH__TOKENS": '{"ada": "${ADA}"}',
    }
    auth = settings(tmp_path, "", **environ).server.auth
    assert auth is not None
    assert (auth.issuer, auth.audience, auth.algorithms) == ("https://login.example.com", "tools", ("ES256",))
    assert auth.token_digests({"ADA": f" {TOKEN}\n"}) == {"ada": hashlib.sha256(TOKEN.encode()).digest()}
    assert "${ADA}" not in repr(auth)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "ada: there is no environment variable ADA"),
        ({"ADA": " \n"}, "ada: there is no environment variable ADA"),
        ({"ADA": "pl41n"}, "ada: a token has 16 to 4096 visible ASCII characters"),
        ({"ADA": "pl41n " * 4}, "ada: a token has 16 to 4096 visible ASCII characters"),
        ({"ADA": TOKEN}, "bob: another caller has the same token"),
    ],
)
def test_a_token_that_cannot_be_used_stops_the_start(tmp_path: Path, environ: dict[str, str], told: str) -> None:
    http = '[server]\ntransport = "sse"\n'
    found = settings(tmp_path, f'{http}[server.auth.tokens]\nada = "${{ADA}}"\nbob = "{hash_token(TOKEN)}"\n')
    with pytest.raises(ConfigurationError) as caught:
        make_verifier(found, environ)
    assert caught.value.message.startswith(f"'tokens' in [server.auth] of {found.source}: {told}")
    assert "pl41n" not in caught.value.message
    assert TOKEN not in caught.value.message


def test_the_address_of_clients_must_be_said_where_the_server_listens_everywhere(tmp_path: Path) -> None:
    everywhere = '[server]\ntransport = "sse"\nhost = "0.0.0.0"\n[server.auth]\n'
    found = settings(tmp_path, f'{everywhere}{ISSUER}audience = "tools"\n')
    with pytest.raises(ConfigurationError, match=r"^missing key 'resource_url' in \[server.auth\] of "):
        make_verifier(found, {})
    for said in ('audience = "https://x"', 'audience = "tools"\nresource_url = "https://x"'):
        assert make_verifier(settings(tmp_path, f"{everywhere}{ISSUER}{said}\n"), {}) is not None


# The command line.


def test_check_tells_who_may_call_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raincheck(*arguments: str) -> Said:
        code = main([*arguments, "--state-url", str(tmp_path / "tasks.db")])
        shown = capsys.readouterr()
        return Said(code=code, out=shown.out, err=shown.err)

    monkeypatch.chdir(tmp_path)
    head = f'[server]\ntransport = "sse"\n[server.auth]\naudience = "a"\n{ISSUER}'
    Path("raincheck.toml").write_text(f'{head}{HASHED}bob = "${{BOB}}"\n')
    said = raincheck("check")
    assert (said.code, said.out) == (2, "")
    assert "bob: there is no environment variable BOB" in said.err
    monkeypatch.setenv("BOB", "b" * 20)
    said, document = raincheck("check"), raincheck("check", "--json")
    assert "callers: with a token: ada, bob; with a JWT of https://login.example.com\n" in said.out
    assert document.json["callers"] == {
        "authenticated": True,
        "tokens": ["ada", "bob"],
        "issuer": "https://login.example.com",
    }
    for secret in (hash_token(TOKEN)[7:], "b" * 20):
        assert secret not in said.out + said.err + document.out
    Path("raincheck.toml").write_text('[server]\ntransport = "sse"\n')
    assert "callers: anybody, without a token\n" in raincheck("check").out


def test_check_hashes_a_token_from_stdin_or_typed_unseen() -> None:
    command = [sys.executable, "-m", "raincheck", "check", "--hash-token"]
    done = subprocess.run(command, input=f"{TOKEN}\n", capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    done = subprocess.run(command, input="pl41n\n", capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raincheck: a token has 16 to 4096 visible ASCII characters")
    assert "pl41n" not in done.stderr
    terminal, end = pty.openpty()
    with subprocess.Popen(command, stdin=end, stdout=subprocess.PIPE, stderr=end, start_new_session=True) as typing:
        os.close(end)
        shown = b""
        while b"Token: " not in shown:
            shown += os.read(terminal, 100)
        os.write(terminal, f"{TOKEN}\n".encode())
        assert typing.stdout is not None
        assert typing.stdout.read().decode().strip() == hash_token(TOKEN)
    os.close(terminal)


def test_the_examples_are_settings_that_can_be_served() -> None:
    environ = {"NIGHTLY_BUILD_TOKEN": TOKEN}
    for file in sorted(EXAMPLES.glob("auth_*.toml")):
        assert make_verifier(load_settings(file, environ={}), environ) is not None
