"""Presence and addresses: keys that move with the day, records that are put again, and addresses worth dialling."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.addresses import MAX_ADDRS, bare_addrs, listen_parts, parse_target, reachable_addrs, usable_addrs
from p2p.errors import Misconfigured
from p2p.memory import MemoryNetwork, running
from p2p.peer import PeerId, peer_of, peer_text
from p2p.presence import DAY, OVERLAP, REPUBLISH, Presence, keys_for, provider_key

NOON = 20_000 * DAY + DAY / 2


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


def test_a_provider_key_never_changes():
    assert (
        provider_key("gateway", "main", 20_000).hex()
        == "2d1e579cfb1f00ea325f958f9a2057c9205a93c3cd0d90ee0d58a9c8104cbccf"
    )


def test_kind_network_and_day_each_make_another_key():
    keys = {
        provider_key(kind, network, day)
        for kind in ("gateway", "orchestrator", "gatewaym")
        for network in ("main", "ain", "demo-1")
        for day in (1, 2)
    }
    assert len(keys) == 18


@pytest.mark.parametrize(
    ("now", "days"),
    [
        (NOON, [20_000]),
        (20_000 * DAY + OVERLAP, [20_000]),
        (20_000 * DAY + OVERLAP - 1, [19_999, 20_000]),
        (20_000 * DAY, [19_999, 20_000]),
        (20_000 * DAY - 1, [19_999, 20_000]),
        (20_000 * DAY - OVERLAP, [19_999, 20_000]),
        (20_000 * DAY - OVERLAP - 1, [19_999]),
    ],
)
def test_both_days_count_near_midnight(now, days):
    assert list(keys_for("gateway", "main", now)) == [provider_key("gateway", "main", day) for day in days]


@given(st.floats(1e9, 3e9), st.floats(-OVERLAP, OVERLAP))
def test_clocks_an_hour_apart_meet_under_a_key(now, skew):
    assert set(keys_for("k", "n", now + OVERLAP)) & set(keys_for("k", "n", now + OVERLAP + skew))


async def test_presence_is_found_across_midnight_and_withdrawn(autojump_clock):
    network = MemoryNetwork(latency=0.01)
    seller, buyer = network.node(peer(1)), network.node(peer(2))
    start = trio.current_time()
    calendar = lambda: 20_001 * DAY - 2 * OVERLAP + trio.current_time() - start  # noqa: E731
    here, there = Presence(seller, "main", calendar), Presence(buyer, "main", calendar)
    async with running(seller, buyer), trio.open_nursery() as nursery:
        await nursery.start(here.run)
        here.advertise("gateway")
        await trio.sleep(1)
        for _ in range(8):  # every half hour from two hours before midnight to two hours after
            assert [found.peer for found in await there.find("gateway")] == [seller.peer]
            assert await there.find("orchestrator") == ()
            await trio.sleep(OVERLAP / 2)
        here.withdraw("gateway")
        network.providers.clear()
        await trio.sleep(2 * REPUBLISH)
        assert await there.find("gateway") == ()
        nursery.cancel_scope.cancel()


def test_only_plain_tcp_addresses_are_usable():
    good = ("/ip4/1.2.3.4/tcp/4001", "/ip6/2001:db8::1/tcp/1", "/dns4/node.example/tcp/65535")
    bad = (
        "", "/", "nonsense", "/ip4/1.2.3.4/udp/4001/quic-v1", "/ip4/1.2.3.4/tcp/4001/ws", "/ip4/1.2.3.4/tcp/70000",
        "/ip4/1.2.3/tcp/1", "/ip4/1.2.3.4/tcp/4001/p2p/16Uiu2", "/dns4/" + "x" * 200 + "/tcp/1", "/ip4/1.2.3.4/tcp/x",
        "/ip4/1.2.3.4/tcp/0",
        "/memory/1/tcp/1", "/ip4/1.2.3.4/tcp/-1", "/ip4/1.2.3.4/tcp/\n1", "/ip4/1.2.3.4/tcp/１",
    )  # fmt: skip
    assert usable_addrs((*bad, *good, *good)) == good
    assert len(usable_addrs(f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, 1000))) == MAX_ADDRS


@given(
    st.lists(st.text(max_size=60) | st.from_regex(r"/(ip4|ip6|dns)/.{0,20}/tcp/.{0,6}", fullmatch=True), max_size=20)
)
def test_no_text_is_too_odd(addrs):
    usable = usable_addrs(addrs)
    assert len(usable) <= MAX_ADDRS
    assert set(usable) <= set(addrs)


def test_what_an_operator_types_is_explained():
    text = peer_text(peer(1))
    target = parse_target(f"/ip4/1.2.3.4/tcp/4001/p2p/{text}")
    assert target == bare_addrs(peer(1), [f"/ip4/1.2.3.4/tcp/4001/p2p/{text}", "nonsense"])
    for wrong in ("", "1.2.3.4:4001", "/ip4/1.2.3.4/tcp/4001", f"/p2p/{text}", "/ip4/1.2.3.4/tcp/4001/p2p/QmXYZ"):
        with pytest.raises(Misconfigured):
            parse_target(wrong)
    assert listen_parts("/ip4/0.0.0.0/tcp/0") == ("0.0.0.0", 0, "/ip4/0.0.0.0/tcp/0")
    for wrong in ("", "0.0.0.0:1", "/dns4/localhost/tcp/1", "/ip4/1.2.3.4/tcp/99999"):
        with pytest.raises(Misconfigured):
            listen_parts(wrong)


def test_every_interface_is_spelled_out_with_loopback_last():
    addrs = [str(addr) for addr in reachable_addrs(["/ip4/0.0.0.0/tcp/4001"])]
    assert "/ip4/127.0.0.1/tcp/4001" in addrs
    assert addrs[-1].startswith("/ip4/127.")
    assert [str(addr) for addr in reachable_addrs(["/ip4/127.0.0.1/tcp/7"])] == ["/ip4/127.0.0.1/tcp/7"]
