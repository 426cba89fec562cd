"""Which `Host` and `Origin` headers are answered: protection against web pages and DNS rebinding."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from raincheck.config.sections.auth import is_loopback
from raincheck.config.settings import ServerSettings

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_PORT = re.compile(r":(\d+|\*)$")


class KnownNames:
    """The names that a server is called by, and the web pages whose scripts may call it.

    Args:
        hosts: Names, with a port or for every port; None: every one.
        origins: Of web pages, in the same way; None: every one.
        addresses: Whether the server may be called by any IP address: no rebinding of a name leads to one.
    """

    def __init__(
        self, hosts: Collection[str] | None, origins: Collection[str] | None, *, addresses: bool = False
    ) -> None:
        self._hosts = None if hosts is None else frozenset(map(_plain, hosts))
        self._origins = None if origins is None else frozenset(map(_plain, origins))
        self._addresses = addresses

    def knows_host(self, host: str) -> bool:
        """Whether that value of `Host` is answered."""
        return self._hosts is None or _among(host, self._hosts) or (self._addresses and _is_address(host))

    def knows_origin(self, origin: str) -> bool:
        """Whether a request with that `Origin` is answered."""
        return self._origins is None or _among(origin, self._origins)


def known_names(server: ServerSettings) -> KnownNames:
    """Those of the settings.

    On loopback: loopback's names and `allowed_hosts`. Elsewhere without authentication: `allowed_hosts`; while there
    are none, every address. A bearer's token is sent by no web page that does not have it, so with authentication
    every name is answered until `allowed_hosts` has one.
    """
    own = f"[{server.host}]" if ":" in server.host else server.host
    if is_loopback(server.host):
        hosts = (*_LOOPBACK, own)
        origins = [f"http://{host}" for host in hosts]
        return KnownNames([*server.allowed_hosts, *hosts], [*server.allowed_origins, *origins])
    if server.allowed_hosts:
        return KnownNames(server.allowed_hosts, server.allowed_origins)
    if server.auth is not None:
        return KnownNames(None, None)
    return KnownNames([*_LOOPBACK, own], server.allowed_origins, addresses=True)


def _plain(place: str) -> str:
    return place.lower().removesuffix(":*")


def _among(place: str, known: frozenset[str]) -> bool:
    place = place.lower()
    return place in known or _PORT.sub("", place) in known


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(_PORT.sub("", host).strip("[]"))
    except ValueError:
        return False
    return True
