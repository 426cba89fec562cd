"""The egress policy: strict parsing of addresses, and the rules that allow them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from raincheck.egress.errors import RequestRefused
from raincheck.egress.ip_ranges import Address, Network, allowed_address

LONGEST_URL = 2048
"""The longest address that is taken, in characters."""

_DEFAULT_PORTS = {"https": 443, "http": 80}
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_RULE = re.compile(r"(?:(https?)://)?(\*\.)?([^/:*\[\]]+|\[[^\]]+\])(?::(\d{1,5}|\*))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """An address taken apart.

    Attributes:
        scheme: "https" or "http".
        host: A name in lower case, or an IP address.
        port: Its own, or the scheme's.
        path: Path and query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Take an address apart.

        Raises:
            RequestRefused: It is no address that can be requested, or holds a user, a password or a fragment.
        """
        if not 0 < len(url) <= LONGEST_URL:
            raise RequestRefused(f"an address has 1 to {LONGEST_URL} characters")
        if not all("!" <= char <= "~" for char in url):
            raise RequestRefused("an address is of visible ASCII characters, without blanks (others are %-encoded)")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise RequestRefused("its host or port is not valid") from None
        if parts.scheme not in _DEFAULT_PORTS:
            raise RequestRefused("an address begins with https://")
        if "@" in parts.netloc:
            raise RequestRefused("an address holds no user and no password")
        if "#" in url:
            raise RequestRefused("an address holds no #fragment")
        if port == 0:
            raise RequestRefused("its host or port is not valid")
        path = parts.path or "/"
        return cls(
            scheme=parts.scheme,
            host=_host(host),
            port=_DEFAULT_PORTS[parts.scheme] if port is None else port,
            path=f"{path}?{parts.query}" if "?" in url else path,
        )

    @property
    def literal(self) -> Address | None:
        """The IP address, where the host is one."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def origin(self) -> str:
        """Scheme, host and port, as messages show them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRule:
    """A host to which requests may go.

    Attributes:
        scheme: "https" or "http".
        host: A name, or an IP address.
        port: The one port; None: any.
        subdomains: Whether the names below `host` are meant, and not itself.
    """

    scheme: str
    host: str
    port: int | None
    subdomains: bool = False

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """`example.com`, `*.example.com`, `example.com:8443`, `example.com:*`, each also after `http://`.

        Without a port the scheme's own is meant.

        Raises:
            ValueError: It is none of these.
        """
        found = _RULE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:80]!r} is no host: write it as hooks.example.com, *.example.com or 10.0.0.5:8443")
        scheme = found[1] or "https"
        port = None if found[4] == "*" else int(found[4] or _DEFAULT_PORTS[scheme])
        try:
            host = _host(found[3].strip("[]").lower())
        except RequestRefused as error:
            raise ValueError(f"{text[:80]!r} is no host: {error.message}") from None
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"{text[:80]!r} is no host: a port is from 1 to 65535")
        rule = cls(scheme=scheme, host=host, port=port, subdomains=bool(found[2]))
        if rule.subdomains and (_is_address(host) or "." not in host):
            raise ValueError(f"{text[:80]!r} is no host: below *. stands a name with a dot, as in *.example.com")
        return rule

    @classmethod
    def of(cls, target: Target) -> HostRule:
        """Exactly the origin of an address."""
        return cls(scheme=target.scheme, host=target.host, port=target.port)

    def matches(self, target: Target) -> bool:
        """Whether a request to the target goes to this host."""
        if target.scheme != self.scheme or self.port not in (None, target.port):
            return False
        return target.host.endswith(f".{self.host}") if self.subdomains else target.host == self.host

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "*" if self.port is None else self.port
        shown = "" if port == _DEFAULT_PORTS[self.scheme] else f":{port}"
        return f"{'http://' * (self.scheme == 'http')}{'*.' * self.subdomains}{host}{shown}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EgressPolicy:
    """Where requests may go.

    Attributes:
        hosts: The hosts; None: any, over https.
        networks: Networks whose addresses may be requested although they are not public.
        trusted: Hosts that may be requested whatever address they resolve to: those that the operator named himself.
    """

    hosts: Sequence[HostRule] | None = None
    networks: Sequence[Network] = ()
    trusted: Sequence[HostRule] = ()

    def check(self, url: str) -> Target:
        """Check all of an address that can be checked without asking for its host's IP address.

        Raises:
            RequestRefused: No request may go there.
        """
        target = Target.parse(url)
        if not self._trusts(target):
            if self.hosts is None and target.scheme != "https":
                raise RequestRefused(f"{target.origin}: an address begins with https://")
            if self.hosts is not None and not any(rule.matches(target) for rule in self.hosts):
                allowed = ", ".join(map(str, self.hosts)) or "none"
                raise RequestRefused(f"{target.origin} is not among the allowed hosts; allowed: {allowed}")
            if target.literal is not None:
                self.check_address(target, target.literal)
        return target

    def check_address(self, target: Target, address: Address) -> None:
        """Check what the target's host resolves to.

        Raises:
            RequestRefused: No request may go there.
        """
        if self._trusts(target) or allowed_address(address, self.networks):
            return
        if target.literal == address and any(rule.host == target.host for rule in self.hosts or ()):
            return
        # Not which address: a caller could map the network behind this server by it.
        raise RequestRefused(f"{target.origin} is at an address that is not public and is in no allowed network")

    def _trusts(self, target: Target) -> bool:
        return any(rule.matches(target) for rule in self.trusted)


def _host(text: str) -> str:
    """A host as it is compared; what resolvers read as an address and `ipaddress` does not is refused."""
    if _is_address(text):
        return str(ipaddress.ip_address(text))
    name = text.removesuffix(".")
    if len(name) > 253 or not _NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise RequestRefused("its host or port is not valid")
    return name


def _is_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False
