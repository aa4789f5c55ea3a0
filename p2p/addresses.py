"""Multiaddrs: which we listen on, which we announce, and which of a peer's we would dial.

Whatever a peer says about its addresses is bounded in number and length, and is nothing but TCP.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

import psutil
from multiaddr import Multiaddr
from multiaddr.exceptions import BinaryParseError, StringParseError

from p2p.errors import MalformedMessage, Misconfigured
from p2p.peer import PeerId, parse_peer
from p2p.transport import PeerAddrs

MAX_ADDRS = 8
MAX_ADDR_LENGTH = 128
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


def usable_addrs(addrs: Iterable[str]) -> tuple[str, ...]:
    """At most ``MAX_ADDRS`` of ``addrs`` that are host and TCP port and no more, each once, in their order."""
    usable: dict[str, None] = {}
    for addr in addrs:
        if len(usable) == MAX_ADDRS:
            break
        if len(addr) <= MAX_ADDR_LENGTH and _is_plain_tcp(addr) and not addr.endswith("/tcp/0"):
            usable[addr] = None
    return tuple(usable)


def listen_parts(addr: str) -> tuple[str, int, str]:
    """Ip, port and canonical text of a listen address. Raises Misconfigured."""
    parts = addr.split("/")
    if not _is_plain_tcp(addr) or parts[1] not in ("ip4", "ip6"):
        raise Misconfigured(f"cannot listen on {addr!r}: expected /ip4/ADDRESS/tcp/PORT")
    return parts[2], int(parts[4]), addr


def parse_target(addr: str) -> PeerAddrs:
    """The peer and address in ``/ip4/1.2.3.4/tcp/4001/p2p/16Uiu2...``. Raises Misconfigured: an operator typed it."""
    base, _, peer = addr.rpartition("/p2p/")
    try:
        target = PeerAddrs(parse_peer(peer), usable_addrs((base,)))
    except MalformedMessage as exc:
        raise Misconfigured(f"{addr!r} does not end in /p2p/PEER: {exc}") from exc
    if not target.addrs:
        raise Misconfigured(f"{addr!r} is no address: expected /ip4/ADDRESS/tcp/PORT/p2p/PEER")
    return target


def bare_addrs(peer: PeerId, addrs: Iterable[str]) -> PeerAddrs:
    """A peer with its addresses, ``/p2p/...`` cut off, as far as they are usable."""
    return PeerAddrs(peer, usable_addrs(addr.partition("/p2p/")[0] for addr in addrs))


def reachable_addrs(bound: Iterable[Any]) -> list[Any]:
    """The bound addresses with "every interface" spelled out, loopback last."""
    spelled: dict[str, None] = {}
    for addr in map(str, bound):
        _, kind, host, *rest = addr.split("/")
        hosts = _interfaces(kind) if ip_address(host).is_unspecified else [host]
        for each in hosts:
            spelled["/".join(("", kind, each, *rest))] = None
    return [Multiaddr(addr) for addr in spelled][: 2 * MAX_ADDRS]


def _interfaces(kind: str) -> list[str]:
    family = AF_INET if kind == "ip4" else AF_INET6
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == family and "%" not in address.address
    ]
    return sorted(found, key=lambda host: ip_address(host).is_loopback)


def own_hosts() -> frozenset[str]:
    """The addresses of this machine's interfaces, loopback left out."""
    hosts = (*_interfaces("ip4"), *_interfaces("ip6"))
    return frozenset(host for host in hosts if not ip_address(host).is_loopback)


def is_local(addr: str) -> bool:
    """Whether an address is one of a LAN: neither of the world, nor of one machine alone, nor a name."""
    parts = addr.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return False
    address = ip_address(parts[2])
    return address.is_private and not address.is_loopback and not address.is_unspecified and not address.is_multicast


def _is_plain_tcp(addr: str) -> bool:
    parts = addr.split("/")
    if not addr.isascii() or len(parts) != 5 or parts[0] or parts[1] not in _HOSTS or parts[3] != "tcp":
        return False
    try:
        Multiaddr(addr)
    except (StringParseError, BinaryParseError, ValueError):
        return False
    return parts[4].isdecimal() and int(parts[4]) < 65_536
