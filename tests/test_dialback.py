"""Dial-back: what others find decides what we announce; and nobody can make us dial anybody else, or without end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
import trio

from p2p.dialback import DIALBACK, IN_ALL_BURST, DialBack, Dialled, DialMe
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.host import Host
from p2p.identity import Identity
from p2p.knock import knock
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.peer import PeerId, peer_of
from p2p.standing import Reach
from p2p.stream import MessageStream
from tests.contracts.network import target, until

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


@dataclass
class Seat:
    """A node with its dial-back; ``knocks`` is what it dialled, ``open_ports`` whom it finds there."""

    node: MemoryNode
    back: DialBack
    knocks: list[tuple[PeerId, str, int]]
    told: list[tuple[Reach, tuple[str, ...]]] = field(default_factory=list)


@asynccontextmanager
async def market():
    async with trio.open_nursery() as nursery:
        net = MemoryNetwork(seed=1, latency=0.01)

        async def seat(number: int, ip: str, ports=(4001,), open_ports=frozenset({4001}), serves: bool = True) -> Seat:
            node = net.node(peer(number), ip)
            knocks: list[tuple[PeerId, str, int]] = []
            told: list[tuple[Reach, tuple[str, ...]]] = []

            async def knocked(who: PeerId, where: str, port: int) -> bool:
                knocks.append((who, where, port))
                await trio.sleep(0.1)
                return port in open_ports

            back = DialBack(
                node,
                ports=lambda: ports,
                knock=knocked,
                changed=lambda *said: told.append(said),
                chance=lambda: 0.5,
            )
            await nursery.start(node.run)
            if serves:
                await nursery.start(back.run)
            return Seat(node, back, knocks, told)

        yield seat
        nursery.cancel_scope.cancel()


async def test_private_until_others_have_reached_us_where_they_see_us(autojump_clock):
    async with market() as seat:
        one = await seat(1, "203.0.113.9", ports=(4001, 4002))
        assert one.back.reach is Reach.UNKNOWN
        helpers = [await seat(number, f"198.51.{number}.1", ports=()) for number in (2, 3, 4, 5, 6)]
        for helper in helpers:
            await one.node.connect(target(helper.node))
        with trio.fail_after(60):
            assert await one.back.known() is Reach.PUBLIC
        await trio.sleep(30)
        assert one.told[-1] == (Reach.PUBLIC, ("/ip4/203.0.113.9/tcp/4001",))  # 4002 did not answer
        asked = [helper for helper in helpers if helper.knocks]
        assert len(asked) == 3
        assert all(
            knock == (one.node.peer, "203.0.113.9", port)
            for h in asked
            for knock, port in zip(h.knocks, (4001, 4002), strict=True)
        )


async def test_behind_a_nat_nobody_reaches_us_and_nothing_is_announced(autojump_clock):
    async with market() as seat:
        one = await seat(1, "203.0.113.9")
        for number in (2, 3, 4):
            await one.node.connect(target((await seat(number, f"198.51.{number}.1", (), frozenset())).node))
        with trio.fail_after(60):
            assert await one.back.known() is Reach.PRIVATE
        assert {addrs for _, addrs in one.told} == {()}


async def test_a_change_of_address_forgets_and_asks_again(autojump_clock):
    async with market() as seat:
        one, helper = await seat(1, "203.0.113.9"), await seat(2, "198.51.2.1", ())
        await one.node.connect(target(helper.node))
        await one.back.known()
        await trio.sleep(120)  # the helper does it once a minute
        one.back.ask_again()
        assert one.told[-1] == (Reach.UNKNOWN, ())
        with trio.fail_after(60):
            await until(lambda: one.told[-1][0] is Reach.PUBLIC, 60)
        assert len(helper.knocks) == 2


async def test_one_check_a_minute_for_each_peer_whatever_it_asks(autojump_clock):
    async with market() as seat:
        helper, greedy = await seat(1, "198.51.1.1", ()), await seat(2, "203.0.113.9", serves=False)
        await greedy.node.connect(target(helper.node))
        for _ in range(300):
            await ask_and_forget(greedy.node, helper.node.peer)
            await trio.sleep(1)
        assert 4 <= len(helper.knocks) <= 7  # five minutes
        assert {knock[1] for knock in helper.knocks} == {"203.0.113.9"}
        assert all(isinstance(failure, Refused) for failure in helper.node.failures)


async def test_who_is_declined_by_everybody_waits_no_longer_and_asks_again(autojump_clock):
    async with market() as seat:
        one, helper = await seat(1, "203.0.113.9"), await seat(2, "198.51.2.1", ())
        assert helper.back._each.allow(one.node.peer, trio.current_time())  # it asked before it was restarted
        await one.node.connect(target(helper.node))
        with trio.fail_after(2):
            assert await one.back.known() is Reach.UNKNOWN
        with trio.fail_after(150):
            await until(lambda: one.back.reach is Reach.PUBLIC, 150)


async def asked(node: MemoryNode, helper: PeerId, what: object) -> object:
    async with MessageStream(await node.open(helper, DIALBACK)) as stream:
        await stream.send(what)
        said = await stream.receive(timeout=60)
    if said is None:
        raise Unavailable("nothing was said")
    return said


async def test_many_identities_share_the_budget_of_their_neighbourhood_and_of_all(autojump_clock):
    async with market() as seat:
        helper = await seat(1, "198.51.1.1", ())
        crowds = (
            [f"8.8.8.{n}" for n in range(20)],
            [f"9.{n}.1.1" for n in range(40)],
            [f"10.0.0.{n}" for n in range(40)],
        )
        most = (4, IN_ALL_BURST + 2, IN_ALL_BURST + 2)
        number = 10
        for crowd, bound in zip(crowds, most, strict=True):
            before = len(helper.knocks)
            async with trio.open_nursery() as nursery:
                for ip in crowd:
                    number += 1
                    sybil = await seat(number, ip, serves=False)
                    await sybil.node.connect(target(helper.node))
                    nursery.start_soon(ask_and_forget, sybil.node, helper.node.peer)
            assert 1 <= len(helper.knocks) - before <= bound
            await trio.sleep(100)


async def ask_and_forget(node: MemoryNode, helper: PeerId) -> None:
    try:
        await asked(node, helper, DialMe((4001,)))
    except Unavailable:
        return


async def test_another_message_is_a_fault_and_silence_ends(autojump_clock):
    async with market() as seat:
        helper, odd = await seat(1, "198.51.1.1", ()), await seat(2, "203.0.113.9", serves=False)
        await odd.node.connect(target(helper.node))
        with pytest.raises(Unavailable):
            await asked(odd.node, helper.node.peer, Dialled("1.2.3.4", (1,)))
        assert isinstance(helper.node.failures[-1], PeerFault)
        await odd.node.open(helper.node.peer, DIALBACK)
        await trio.sleep(60)
        assert isinstance(helper.node.failures[-1], Unavailable)
        assert helper.knocks == []


@pytest.mark.parametrize(
    "said", [Dialled("1.2.3.4", (9999,)), Dialled("nowhere at all", (4001,)), DialMe((4001,)), None]
)
async def test_an_answer_that_cannot_be_is_no_vote(said, autojump_clock):
    async with market() as seat:
        one, liar = await seat(1, "203.0.113.9"), await seat(2, "198.51.2.1", (), serves=False)

        async def lie(raw):
            stream = MessageStream(raw)
            await stream.receive()
            if said is not None:
                await stream.send(said)

        liar.node.serve(DIALBACK, lie)
        await one.node.connect(target(liar.node))
        await trio.sleep(300)
        assert one.back.reach is Reach.UNKNOWN
        assert one.told == []


@pytest.mark.live
async def test_a_knock_finds_the_peer_itself_and_leaves_no_connection():
    one, other = (Host(Identity(sha256(b"knock %d" % number).digest()), LOOPBACK) for number in (1, 2))
    async with trio.open_nursery() as nursery:
        for host in (one, other):
            await nursery.start(host.run)
        listener = await nursery.start(trio.serve_tcp, forget, 0)
        silent = listener[0].socket.getsockname()[1]
        (port,) = one.ports()
        assert await knock(one.peer, "127.0.0.1", port)
        assert not await knock(other.peer, "127.0.0.1", port)  # somebody else answers there
        assert not await knock(one.peer, "127.0.0.1", silent)  # somebody who is no peer
        nothing = await trio.open_tcp_listeners(0, host="127.0.0.1")
        closed = nothing[0].socket.getsockname()[1]
        await nothing[0].aclose()
        assert not await knock(one.peer, "127.0.0.1", closed)
        assert one.connected() == other.connected() == frozenset()
        nursery.cancel_scope.cancel()


async def forget(stream: trio.SocketStream) -> None:
    await stream.receive_some()


@pytest.mark.live
async def test_two_hosts_learn_of_each_other_that_they_can_be_dialled():
    async with trio.open_nursery() as nursery:
        hosts, backs = [], []
        for number in (1, 2):
            host = Host(Identity(sha256(b"dialback %d" % number).digest()), LOOPBACK)
            host.announce((), also_bound=False)

            def proven(_reach, addrs, host=host):
                host.announce(addrs, also_bound=False)

            back = DialBack(host, ports=host.ports, knock=knock, changed=proven)
            await nursery.start(host.run)
            await nursery.start(back.run)
            hosts.append(host)
            backs.append(back)
        one, two = hosts
        assert list(one.library.get_addrs()) == []
        await one.connect(target(two))
        with trio.fail_after(30):
            for back in backs:
                assert await back.known() is Reach.PUBLIC
        for host in hosts:
            assert [str(addr) for addr in host.library.get_addrs()] == list(host.addrs())
        nursery.cancel_scope.cancel()
