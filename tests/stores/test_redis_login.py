"""How the Redis store gets in: passwords that no message shows, rights, certificates."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from stores.conftest import MakeRedis
from stores.records import after, apply, stored

from raincheck.domain.transitions import Claim
from raincheck.errors import StoreError, StoreUnavailable, StoreUnusable
from raincheck.ports.tls import Tls
from support.servers.redis import RedisServer
from support.servers.server import free_port, needed


async def test_a_refused_login_says_what_to_set_and_no_password(make_redis: MakeRedis) -> None:
    server = RedisServer(password="correct-horse")
    try:
        server.start()
        for login in ("", ":wrong-battery@", "someone:wrong-battery@"):
            url = f"redis://{login}127.0.0.1:{server.port}/0"
            with pytest.raises(StoreUnavailable) as refusal:
                await make_redis(url).open()
            message = refusal.value.message
            assert message == (
                f"The task store redis://127.0.0.1:{server.port}/0 refuses the login: set user name and password in "
                "its url."
            )
            assert "battery" not in repr(make_redis(url)) + str(refusal.value)
        store = make_redis(f"redis://:correct-horse@127.0.0.1:{server.port}/0")
        await store.open()
        await stored(store)
    finally:
        server.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    needed(None if shutil.which("openssl") else "openssl (Debian: openssl)")
    paths = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    places = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]]
    subprocess.run([*command.split(), *places], check=True, stderr=subprocess.DEVNULL)
    return paths


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        (
            "redis://:secret@127.0.0.1:1/0",
            StoreUnavailable,
            "redis://127.0.0.1:1/0 cannot be reached: connection refused",
        ),
        ("redis://:secret@nowhere.invalid/0", StoreUnavailable, "redis://nowhere.invalid/0 cannot be reached: "),
        (
            "unix:///nowhere.sock?password=secret",
            StoreUnavailable,
            "unix:///nowhere.sock cannot be reached: no such file",
        ),
        (
            "redis://:secret@127.0.0.1:x/0",
            StoreUnusable,
            "redis://127.0.0.1:x/0 is not one that Redis clients understand",
        ),
        ("redis://:secret@[::1/0", StoreUnusable, "(no valid url) is not one that Redis clients understand"),
        ("redis://localhost/0?secret=a&socket_timeout=x", StoreUnusable, "redis://localhost/0 is not one that Redis"),
    ],
)
async def test_an_address_that_leads_nowhere_is_said_without_its_secrets(
    make_redis: MakeRedis, url: str, kind: type[StoreError], said: str
) -> None:
    store = make_redis(url, timeout_seconds=2)
    with pytest.raises(kind) as refusal:
        await store.open()
    assert said in refusal.value.message
    assert "secret" not in refusal.value.message + repr(store)


async def test_a_database_that_is_not_there_is_said(redis_server: RedisServer, make_redis: MakeRedis) -> None:
    with pytest.raises(StoreUnavailable, match="failed: DB index is out of range"):
        await make_redis(redis_server.database(99)).open()


async def test_certificates_are_checked_and_tls_is_used_where_they_are_given(
    certificate: tuple[str, str], make_redis: MakeRedis
) -> None:
    cert, key = certificate
    needed(RedisServer.missing())
    tls_port = free_port()
    options = ("--tls-port", str(tls_port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
    server = RedisServer(*options)
    try:
        server.start()
        for scheme in ("redis", "rediss"):
            store = make_redis(f"{scheme}://127.0.0.1:{tls_port}/0", tls=Tls(ca=cert, cert=cert, key=key))
            await store.open()
            end = store.subscribe(lambda change: None)
            task = await apply(store, await stored(store), Claim(worker_id="w", lease_until=after(30)))
            assert await store.renew("w", {task.task_ref: 1}, after(60)) == set()
            end()
        said = r"cannot be reached over TLS: its certificate is not accepted \(self.signed certificate\)"
        with pytest.raises(StoreUnavailable, match=said):
            await make_redis(f"rediss://127.0.0.1:{tls_port}/0").open()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            # It asks for this client's certificate.
            await make_redis(f"redis://127.0.0.1:{tls_port}/0", tls=Tls(ca=cert)).open()
        with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.3 s"):
            # Where TLS is not spoken, its first words are no command.
            await make_redis(server.url, tls=Tls(ca=cert), timeout_seconds=0.3).open()
    finally:
        server.close()
