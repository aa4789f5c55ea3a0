"""The real host's own rules: ports, keys, addresses, crossed dials, floods; and that it closes what it opened."""

from __future__ import annotations

import socket
from hashlib import sha256

import pytest
import trio
from multiaddr import Multiaddr

from p2p.discovery import KademliaDiscovery
from p2p.errors import MalformedMessage, Misconfigured, Unavailable
from p2p.gossip import GossipSub
from p2p.host import Host
from p2p.identity import Identity
from p2p.limits import PortClaim, raise_open_files
from p2p.netstream import library_id
from p2p.presence import Presence
from p2p.scores import Fault
from p2p.transport import PeerAddrs
from tests.contracts.network import ECHO, echo, target, until

pytestmark = pytest.mark.live
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


def key(number: int) -> Identity:
    return Identity(sha256(b"host %d" % number).digest())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("listen", [("127.0.0.1:4001",), ("/dns4/localhost/tcp/1",), ("/ip4/127.0.0.1/udp/1/quic-v1",)])
def test_an_address_that_is_none_is_the_operators(listen):
    with pytest.raises(Misconfigured):
        Host(key(1), listen)
    with pytest.raises(Misconfigured):
        Host(key(1), LOOPBACK, announce=("nonsense",))


async def test_announced_addresses_replace_the_bound_ones():
    host = Host(key(1), LOOPBACK, announce=("/ip4/203.0.113.9/tcp/4001",))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        assert [addr.partition("/p2p/")[0] for addr in host.addrs()] == ["/ip4/203.0.113.9/tcp/4001"]
        nursery.cancel_scope.cancel()


async def test_a_taken_port_is_said_before_anything_listens():
    port = free_port()
    listen = (f"/ip4/127.0.0.1/tcp/{port}",)
    async with trio.open_nursery() as nursery:
        await nursery.start(Host(key(1), listen).run)
        with pytest.raises(Misconfigured, match=f"{port} .* another node"):  # the library would share it in silence
            await Host(key(2), listen).run()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:  # and afterwards it is free again
        await nursery.start(Host(key(2), listen).run)
        nursery.cancel_scope.cancel()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(Misconfigured):
            PortClaim("127.0.0.1", port)
    with pytest.raises(Misconfigured):
        PortClaim("203.0.113.9", port)  # not of this machine


async def test_every_address_is_tried():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(two.run)
        dead = tuple(f"/ip4/127.0.0.1/tcp/{free_port()}" for _ in range(3))
        await one.connect(PeerAddrs(two.peer, (*dead, *target(two).addrs)))
        assert one.connected() == {two.peer}
        nursery.cancel_scope.cancel()


async def test_two_that_dial_each_other_keep_one_connection_that_works():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)
    two.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(two.run)
        async with trio.open_nursery() as both:
            both.start_soon(one.connect, target(two))
            both.start_soon(two.connect, target(one))
        await until(lambda: len(one._swarm.get_connections()) == len(two._swarm.get_connections()) == 1)
        await trio.sleep(0.3)
        assert one.connected() == {two.peer}
        stream = await one.open(two.peer, ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_dials_again_while_it_is_left_is_known_to_be_there():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)
    two.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(two.run)
        await one.connect(target(two))
        async with trio.open_nursery() as both:
            both.start_soon(one.disconnect, two.peer)
            await until(lambda: one.connected() == frozenset())  # the old connection takes its time to close
            await two._swarm.dial_addr(Multiaddr(target(one).addrs[0]), library_id(one.peer))
        assert one.connected() == {two.peer}
        stream = await one.open(two.peer, ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        nursery.cancel_scope.cancel()


async def test_new_streams_take_the_newest_connection_and_sockets_are_watched():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)
    two.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(two.run)
        await one.connect(target(two))
        before = one.link(two.peer)
        await until(lambda: two.link(one.peer) is not None)
        assert (before.dialled, two.link(one.peer).dialled) == (True, False)
        await one._swarm.dial_addr(Multiaddr(target(two).addrs[0]), library_id(two.peer))
        after = one.link(two.peer)
        assert after.dialled
        assert after.number != before.number
        await until(lambda: all(len(host._swarm.get_connections()) == 1 for host in (one, two)))
        assert one.connected() == {two.peer}
        for host in (one, two):
            (connection,) = host._swarm.get_connections()
            sock = connection.muxed_conn.secured_conn.conn.conn.stream.stream.socket
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert one.link(key(9).peer) is None
        nursery.cancel_scope.cancel()


async def test_faults_of_an_acceptor_are_scored_and_lead_to_the_graylist():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)

    async def fault(_stream):
        raise MalformedMessage("nonsense")

    two.serve("/pasar/test-fault/1", fault)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(two.run)
        await one.connect(target(two))
        for _ in range(12):
            try:
                stream = await one.open(two.peer, "/pasar/test-fault/1")
                await stream.receive()
            except Unavailable:
                continue
        assert two.scores.faults(one.peer)[Fault.PROTOCOL] >= 10
        assert two.scores.graylisted(one.peer, trio.current_time())
        two.serve(ECHO, echo)
        with pytest.raises(Unavailable):
            await one.open(two.peer, ECHO)
        nursery.cancel_scope.cancel()


async def test_rejected_gossip_costs_the_forwarder():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)
    topic = "pasar/test/offers"
    near, far = GossipSub(one, "pasar/test/"), GossipSub(two, "pasar/test/")

    def reject(_forwarder, _data):
        raise MalformedMessage("no offer")

    async with trio.open_nursery() as nursery:
        for runs in (one, two, near, far):
            await nursery.start(runs.run)
        await far.join(topic, reject)
        await one.connect(target(two))
        for number in range(100):
            await near.publish(topic, b"%d" % number)
            await trio.sleep(0.1)
            if two.scores.faults(one.peer).get(Fault.REJECTED):
                break
        assert two.scores.score(one.peer, trio.current_time()) < 0
        for wrong in (b"", bytes(4097)):
            with pytest.raises(ValueError, match="1 to 4096"):
                await near.publish(topic, wrong)
        with pytest.raises(ValueError, match="topic"):
            await near.publish("pasar/other/offers", b"x")
        nursery.cancel_scope.cancel()


async def test_presence_over_the_dht_finds_several_sellers():
    hosts = [Host(key(number), LOOPBACK) for number in range(5)]
    found = [KademliaDiscovery(host) for host in hosts]
    presences = [Presence(discovery, "test", lambda: 1.7e9) for discovery in found]
    middle, seeker, *sellers = hosts
    async with trio.open_nursery() as nursery:
        for runs in (*hosts, *found, *presences):
            await nursery.start(runs.run)
        for host in (seeker, *sellers):
            await host.connect(target(middle))
        for presence in presences[2:]:
            presence.advertise("orchestrator")
        with trio.fail_after(30):
            while True:
                answers = {answer.peer: answer for answer in await presences[1].find("orchestrator")}
                if set(answers) == {seller.peer for seller in sellers}:
                    break
                await trio.sleep(0.2)
        for seller in sellers:
            await seeker.connect(answers[seller.peer])
        nursery.cancel_scope.cancel()


async def test_the_dht_speaks_our_protocol_only():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)
    found = KademliaDiscovery(two)
    async with trio.open_nursery() as nursery:
        for runs in (one, two, found):
            await nursery.start(runs.run)
        await one.connect(target(two))
        with pytest.raises(Unavailable):
            await one.open(two.peer, "/ipfs/kad/1.0.0")
        await one.open(two.peer, "/pasar/kad/1.0.0")
        nursery.cancel_scope.cancel()


async def test_a_record_that_nobody_took_is_said():
    host = Host(key(1), LOOPBACK)
    alone = KademliaDiscovery(host, server=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        await nursery.start(alone.run)
        with pytest.raises(Unavailable):
            await alone.provide(b"k" * 32)
        assert await alone.find(b"k" * 32) == ()
        nursery.cancel_scope.cancel()


async def test_nobody_is_dialled_that_we_did_not_ask_for():
    one, two, three = (Host(key(number), LOOPBACK) for number in range(1, 4))
    async with trio.open_nursery() as nursery:
        for host in (one, two, three):
            await nursery.start(host.run)
        one.library.get_peerstore().add_addrs(library_id(three.peer), [Multiaddr(target(three).addrs[0])], 3600)
        await one.connect(target(two))
        await one.disconnect(two.peer)  # makes the library look for somebody else
        await trio.sleep(0.5)
        assert one.connected() == frozenset()
        nursery.cancel_scope.cancel()


def test_open_files_are_raised_as_far_as_they_go():
    first = raise_open_files()
    assert first > 0
    assert raise_open_files() == first


async def test_the_second_stream_of_a_protocol_waits_for_no_consent_and_still_hears_of_none():
    one, two = Host(key(1), LOOPBACK), Host(key(2), LOOPBACK)
    two.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(two.run)
        await one.connect(target(two))
        for _ in range(3):
            stream = await one.open(two.peer, ECHO)
            await stream.send(b"hello")
            await stream.finish()
            assert await stream.receive() == b"hello"
            assert await stream.receive() == b""
            await stream.aclose()
        silent = await one.open(two.peer, ECHO)
        await silent.finish()  # nothing was said, and the far end is told of the stream all the same
        assert await silent.receive() == b""
        two.library.multiselect.remove_handler(ECHO)
        hopeful = await one.open(two.peer, ECHO)  # it was spoken before
        await hopeful.send(b"hello")
        with pytest.raises(Unavailable):
            await hopeful.receive()
        with pytest.raises(Unavailable):  # and from now on the consent is waited for
            await one.open(two.peer, ECHO)
        nursery.cancel_scope.cancel()
