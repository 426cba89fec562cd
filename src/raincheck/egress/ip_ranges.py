"""Which IP addresses are the public internet's, and which are this machine's, this network's or this cloud's own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google Cloud and others
        "169.254.170.2",  # AWS: credentials of containers
        "169.254.170.23",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",  # Google Cloud
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure, although it looks public
        "192.0.0.192",  # Oracle Cloud
    )
)
# What `is_global` takes for public in one Python or another, and is not for requests.
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "64:ff9b:1::/48", "100::/64", "5f00::/16", "3fff::/20")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")


def network_of(text: str) -> Network:
    """A network in CIDR form, or one address.

    Raises:
        ValueError: It is neither.
    """
    return ipaddress.ip_network(text)


def allowed_address(address: Address, networks: Iterable[Network] = ()) -> bool:
    """Whether requests may go there: it is public, or in one of the networks.

    An IPv6 address that stands for an IPv4 one (mapped, NAT64, 6to4, Teredo) is what that one is. The address of a
    cloud's metadata counts as in a network only where the network is that single address.
    """
    inner = _inside(address)
    if any(each in _METADATA for each in (address, *inner)):
        networks = [network for network in networks if network.num_addresses == 1]
    if any(each in network for network in networks for each in (address, *inner)):
        return True
    if inner:
        return all(_public(each) for each in inner)
    return _public(address)


def _public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _METADATA
        and not any(address in network for network in _NEVER_PUBLIC)
    )


def _inside(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()
