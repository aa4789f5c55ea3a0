"""Names on a LAN: what is told of us, what is believed of others, and how many of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo

from market.config import load_config
from p2p.mdns import MAX_NAMES, SERVICE, LocalNames, info_for, target_of
from p2p.peer import PeerId, peer_of, peer_text
from p2p.transport import PeerAddrs

NAME = f"{'0' * 32}.{SERVICE}"


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


def own(*bases: str) -> tuple[str, ...]:
    return tuple(f"{base}/p2p/{peer_text(peer(1))}" for base in bases)


def named(network: bytes = b"main", **records: bytes | None) -> ServiceInfo:
    properties: dict[str | bytes, str | bytes | None] = {b"network": network}
    properties |= {key.encode(): value for key, value in records.items()}
    return ServiceInfo(SERVICE, NAME, port=1, properties=properties)


def test_what_is_told_is_understood():
    info = info_for(NAME, "main", own("/ip4/192.168.1.2/tcp/4001", "/ip6/fe80::1/tcp/4001", "/ip4/127.0.0.1/tcp/4001"))
    assert info is not None
    assert target_of(info, "main") == PeerAddrs(peer(1), ("/ip4/192.168.1.2/tcp/4001", "/ip6/fe80::1/tcp/4001"))
    assert target_of(info, "other") is None


def test_a_node_without_an_address_on_the_lan_is_not_named():
    assert info_for(NAME, "main", own("/ip4/127.0.0.1/tcp/4001", "/ip4/8.8.8.8/tcp/4001", "/dns4/x.y/tcp/1")) is None
    assert info_for(NAME, "main", ()) is None


@pytest.mark.parametrize(
    "record",
    [
        None,
        b"",
        b"/ip4/192.168.1.2/tcp/4001",
        b"/ip4/192.168.1.2/tcp/4001/p2p/nobody",
        b"\xff\xfe/p2p/\xff",
        own("/ip4/8.8.8.8/tcp/22")[0].encode(),  # nobody on a LAN makes us dial the world
        own("/ip4/127.0.0.1/tcp/22")[0].encode(),  # or ourselves
        own("/dns4/example.org/tcp/22")[0].encode(),
        own("/ip4/192.168.1.2/udp/1/quic-v1")[0].encode(),
    ],
)
def test_what_is_no_peer_of_the_lan_is_nobody(record):
    assert target_of(named(dnsaddr0=record), "main") is None


def test_a_name_stands_for_one_peer_and_few_addresses():
    two = f"/ip4/192.168.1.3/tcp/1/p2p/{peer_text(peer(2))}".encode()
    assert target_of(named(dnsaddr0=own("/ip4/192.168.1.2/tcp/1")[0].encode(), dnsaddr1=two), "main") is None
    many = {f"dnsaddr{n}": own(f"/ip4/192.168.1.2/tcp/{n + 1}")[0].encode() for n in range(40)}
    target = target_of(named(**many), "main")
    assert target is not None
    assert 1 <= len(target.addrs) <= 8


@given(st.dictionaries(st.binary(max_size=12), st.none() | st.binary(max_size=200), max_size=10))
def test_no_record_is_too_odd(properties):
    class Info:
        pass

    info = Info()
    info.properties = {b"network": b"main", **properties}
    assert target_of(info, "main") is None


def test_a_crowd_on_the_lan_is_bounded():
    found: list[PeerAddrs] = []
    names = LocalNames(peer(0), "main", addrs=lambda: (), found=found.append)
    for number in range(4 * MAX_NAMES):
        names._consider(PeerAddrs(peer(number), ("/ip4/192.168.1.2/tcp/1",)))
    assert len(found) == MAX_NAMES
    assert peer(0) not in {target.peer for target in found}
    names._consider(found[0])  # it may have moved
    assert len(found) == MAX_NAMES + 1


@pytest.mark.parametrize(
    ("listen", "network", "mdns", "lan"),
    [
        ((), "main", None, False),
        (("/ip4/127.0.0.1/tcp/1",), "main", None, False),
        (("/ip4/0.0.0.0/tcp/1",), "main", None, True),
        (("/ip4/192.168.1.2/tcp/1",), "main", None, True),
        (("/ip4/8.8.8.8/tcp/1",), "main", None, False),
        (("/ip4/0.0.0.0/tcp/1",), "demo-1", None, False),
        (("/ip4/0.0.0.0/tcp/1",), "test", None, False),
        (("/ip4/0.0.0.0/tcp/1",), "demo-1", True, True),
        (("/ip4/0.0.0.0/tcp/1",), "main", False, False),
    ],
)
def test_who_listens_on_a_lan_is_named_there_unless_told_otherwise(listen, network, mdns, lan):
    assert load_config(listen=listen, network=network, mdns=mdns).lan is lan
