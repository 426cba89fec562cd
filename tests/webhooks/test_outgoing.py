"""The guard on outgoing requests, against real sockets: where they may go, and how long and large they may get."""

from __future__ import annotations

import asyncio
import datetime as dates
import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from operations.http_server import Received, answer, answering, serving

from raincheck.egress.client import EgressClient
from raincheck.egress.errors import AnswerTooLarge, OutgoingError, RequestFailed, RequestRefused
from raincheck.egress.ip_ranges import allowed_address, network_of
from raincheck.egress.policy import EgressPolicy, HostRule, Target
from raincheck.egress.retry_after import retry_after
from support.waiting import PATIENCE

LOOPBACK = network_of("127.0.0.0/8")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def rules(*hosts: str, networks: str = "", trusted: str = "") -> EgressPolicy:
    return EgressPolicy(
        hosts=[HostRule.parse(host) for host in hosts],
        networks=[network_of(each) for each in networks.split()],
        trusted=[HostRule.of(Target.parse(each)) for each in trusted.split()],
    )


def resolving(*answers: Sequence[str]) -> tuple[EgressClient, list[str]]:
    """A client on whose resolver the name has these addresses, in turn; and what it was asked for."""
    asked: list[str] = []

    async def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    client = EgressClient(
        rules("http://hooks.example:*", networks="127.0.0.1/32"),
        total_seconds=2,
        connect_seconds=1,
        max_body_bytes=1000,
        resolver=resolver,
    )
    return client, asked


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("169.254.1.1", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b:1::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::", "::127.0.0.1"),
    ],
)
def test_what_is_not_the_public_internet_is_refused(address: str) -> None:
    assert not allowed_address(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert allowed_address(ipaddress.ip_address(address))


def test_a_network_allows_its_addresses_but_metadata_only_where_it_is_named_alone() -> None:
    assert allowed_address(ipaddress.ip_address("10.1.2.3"), [network_of("10.0.0.0/8")])
    assert allowed_address(ipaddress.ip_address("::ffff:10.1.2.3"), [network_of("10.0.0.0/8")])
    metadata = ipaddress.ip_address("169.254.169.254")
    assert not allowed_address(metadata, [network_of("0.0.0.0/0"), network_of("169.254.0.0/16")])
    assert not allowed_address(ipaddress.ip_address("::ffff:169.254.169.254"), [network_of("::/0")])
    assert allowed_address(metadata, [network_of("169.254.169.254")])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "1 to 2048 characters"),
        ("https://hooks.example/" + "x" * 2048, "1 to 2048 characters"),
        ("ftp://hooks.example/", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("//hooks.example/", "begins with https://"),
        ("https://hooks.example/a b", "visible ASCII"),
        ("https://hooks.example/\nx", "visible ASCII"),
        ("https://höoks.example/", "visible ASCII"),
        ("https://u:p@hooks.example/", "no user and no password"),
        ("https://hooks.example@evil.example/", "no user and no password"),
        ("https://hooks.example/#there", "no #fragment"),
        ("https://hooks.example\\.evil.example/", "not valid"),
        ("https://hooks.example:0/", "not valid"),
        ("https://hooks.example:70000/", "not valid"),
        ("https:///x", "not valid"),
        ("https://[fe80::1%25eth0]/", "not valid"),
        ("https://127.1/", "not valid"),
        ("https://2130706433/", "not valid"),
        ("https://0x7f.1/", "not valid"),
        ("https://a..b/", "not valid"),
        ("https://evil.example/", "not among the allowed hosts; allowed: hooks.example, *.tenant.example"),
        ("http://hooks.example/", "not among the allowed hosts"),
        ("https://hooks.example:8443/", "not among the allowed hosts"),
        ("https://tenant.example/", "not among the allowed hosts"),
        ("https://eviltenant.example/", "not among the allowed hosts"),
    ],
)
def test_an_address_that_is_not_allowed_is_refused_in_one_line(url: str, why: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        rules("hooks.example", "*.tenant.example").check(url)
    assert why in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example",
        "https://HOOKS.example./x?y=%20",
        "https://hooks.example:443/",
        "https://a.b.tenant.example/",
    ],
)
def test_an_allowed_address_passes(url: str) -> None:
    assert rules("hooks.example", "*.tenant.example").check(url)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "a b",
        "*.com",
        "*.10.0.0.1",
        "host:0",
        "host:70000",
        "host/path",
        "u@host",
        "*",
        "127.1",
        "ftp://a",
    ],
)
def test_what_is_no_host_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        HostRule.parse(text)


def test_a_literal_address_must_be_allowed_by_itself_or_its_network() -> None:
    url = "http://127.0.0.1:9000/x"
    assert rules("http://127.0.0.1:9000").check(url)
    assert EgressPolicy(
        hosts=[HostRule.parse("http://localhost:9000")], trusted=[HostRule.of(Target.parse(url))]
    ).check(url)
    with pytest.raises(RequestRefused, match="not public"):
        EgressPolicy().check("https://127.0.0.1/")
    with pytest.raises(RequestRefused, match="https"):
        EgressPolicy().check("http://8.8.8.8/")
    assert EgressPolicy(networks=[LOOPBACK]).check("https://127.0.0.1/")


async def test_the_connection_goes_to_the_address_that_was_checked_and_the_name_is_asked_for_once() -> None:
    async with serving(answering(answer(200, "hello"))) as server:
        client, asked = resolving(["127.0.0.1"], ["10.0.0.1"])
        got = await client.request(
            "POST", f"http://hooks.example:{server.port}/a?b=c", content=b"{}", headers={"X-A": "b"}
        )
    assert (got.status, got.body, asked) == (200, b"hello", ["hooks.example"])
    received = server.received[0]
    assert (received.target, received.body, received.headers["x-a"]) == ("/a?b=c", b"{}", "b")
    assert received.headers["host"] == f"hooks.example:{server.port}"


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["127.0.0.2"], ["127.0.0.1", "169.254.169.254"], ["::ffff:10.0.0.1"]]
)
async def test_a_name_that_resolves_to_a_forbidden_address_gets_no_request(addresses: list[str]) -> None:
    async with serving(answering(answer(200))) as server:
        client, _ = resolving(addresses)
        with pytest.raises(RequestRefused, match="not public") as refused:
            await client.request("GET", f"http://hooks.example:{server.port}/")
        assert not any(address in refused.value.message for address in addresses)
        assert server.connections == 0


async def test_a_name_that_changes_its_address_between_two_requests_is_checked_again() -> None:
    async with serving(answering(answer(200))) as server:
        client, _ = resolving(["127.0.0.1"], ["192.168.0.1"])
        assert (await client.request("GET", f"http://hooks.example:{server.port}/")).status == 200
        with pytest.raises(RequestRefused):
            await client.request("GET", f"http://hooks.example:{server.port}/")
    assert server.connections == 1


async def test_the_systems_resolver_is_checked_too() -> None:
    async with serving(answering(answer(200))) as server:
        with pytest.raises(RequestRefused, match="localhost"):
            await EgressClient(rules("http://localhost:*")).request("GET", f"http://localhost:{server.port}/")
        own = EgressClient(rules(trusted=f"http://localhost:{server.port}"))
        assert (await own.request("GET", f"http://localhost:{server.port}/")).status == 200


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with serving(answering(answer(302, "", location="http://127.0.0.1:1/"))) as server:
        client, _ = resolving(["127.0.0.1"])
        got = await client.request("GET", f"http://hooks.example:{server.port}/")
    assert (got.status, got.headers["location"], len(server.received)) == (302, "http://127.0.0.1:1/", 1)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(answering(answer(204))) as server:
        client, _ = resolving(["127.0.0.1"])
        assert (await client.request("GET", f"http://hooks.example:{server.port}/")).status == 204


async def _hang(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _endless_body(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 100)
        await writer.drain()


async def _endless_head(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def _slow_drops(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _hang_up(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize(
    ("handler", "kind", "why"),
    [
        (_hang, RequestFailed, "did not answer within 0.5 s"),
        (_slow_drops, RequestFailed, "did not answer within 0.5 s"),
        (_endless_body, AnswerTooLarge, "larger than 1000 bytes"),
        (_endless_head, RequestFailed, "not HTTP"),
        (_hang_up, RequestFailed, "hung up"),
        (answering(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), RequestFailed, "not HTTP"),
        (answering(answer(200, b"x" * 50, content_encoding="gzip")), RequestFailed, "compressed"),
    ],
)
async def test_a_receiver_that_misbehaves_costs_bounded_time_and_room(
    handler: object, kind: type[OutgoingError], why: str
) -> None:
    async with serving(handler) as server:  # pyright: ignore[reportArgumentType]
        url = f"http://127.0.0.1:{server.port}/secret-path"
        client = EgressClient(rules("http://127.0.0.1:*"), total_seconds=0.5, max_body_bytes=1000)
        with pytest.raises(kind, match=why) as failed:
            await client.request("POST", url)
        assert "secret-path" not in failed.value.message


async def test_an_endless_body_that_nobody_wants_is_not_read() -> None:
    async with serving(_endless_body) as server:
        client = EgressClient(rules("http://127.0.0.1:*"), total_seconds=2, max_body_bytes=1000)
        got = await client.request("POST", f"http://127.0.0.1:{server.port}/", read_body=False)
        assert got.status == 200
        await asyncio.wait_for(server.gone.wait(), PATIENCE)


async def test_nobody_there_and_no_such_name_are_told_apart() -> None:
    async with serving(answering(answer(200))) as server:
        port = server.port
    client, _ = resolving(["127.0.0.1"], [])
    with pytest.raises(RequestFailed, match="refused the connection"):
        await client.request("GET", f"http://hooks.example:{port}/")
    with pytest.raises(RequestFailed, match="cannot be found"):
        await client.request("GET", f"http://hooks.example:{port}/")


async def test_a_resolver_that_hangs_is_bounded() -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    client = EgressClient(rules("hooks.example"), connect_seconds=0.2, resolver=resolver)
    with pytest.raises(RequestFailed, match="in time") as failed:
        await client.request("GET", "https://hooks.example/")
    assert failed.value.timed_out


async def test_tls_asks_for_the_name_and_an_untrusted_or_foreign_certificate_is_refused(tmp_path: Path) -> None:
    names = _certificate(tmp_path, "hooks.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*names)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    trusting = ssl.create_default_context(cafile=str(names[0]))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(200, "safe"))
        await writer.drain()
        writer.close()

    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    allowed = rules("hooks.example:*", "other.example:*", networks="127.0.0.1")
    try:
        trusted = EgressClient(allowed, resolver=resolver, tls=trusting)
        assert (await trusted.request("GET", f"https://hooks.example:{port}/")).body == b"safe"
        assert asked == ["hooks.example"]
        with pytest.raises(RequestFailed, match=r"the certificate of https://other.example:.* is not valid"):
            await trusted.request("GET", f"https://other.example:{port}/")
        with pytest.raises(RequestFailed, match="is not valid"):
            await EgressClient(allowed, resolver=resolver).request("GET", f"https://hooks.example:{port}/")
    finally:
        listening.close()


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dates.timedelta(days=1))
        .not_valid_after(today + dates.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("99999", 3600.0),
        ("nan", None),
        ("soon", None),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2020 12:00:30 GMT", 0.0),
        ("Tue, 24 Nov 99999 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, longest=3600, now=NOW) == seconds
