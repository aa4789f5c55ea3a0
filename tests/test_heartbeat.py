"""Heartbeats over the network in memory: the half-dead are dropped, the living are not, and nobody is flooded."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
import trio

from p2p.addressbook import AddressBook
from p2p.errors import PeerFault, Unavailable, Unspoken
from p2p.heartbeat import ASKS_BURST, MAX_STREAMS_EACH, Heartbeat, Ping, Pong
from p2p.host import Host
from p2p.identity import Identity
from p2p.keeper import Keeper
from p2p.memory import MAX_STREAMS, MemoryNetwork, MemoryNode
from p2p.peer import PeerId, peer_of
from p2p.pulse import PING
from p2p.scores import Fault
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs, Stream
from tests.contracts.network import ECHO, echo, target, until

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


@dataclass
class Calendar:
    """A wall clock that runs with trio's, until somebody moves it."""

    ahead: float = 1.7e9

    def __call__(self) -> float:
        return trio.current_time() + self.ahead


@dataclass
class Stage:
    """Nodes of one network, each with its heartbeat."""

    net: MemoryNetwork
    nursery: trio.Nursery
    beats: dict[PeerId, Heartbeat] = field(default_factory=dict)
    calendars: dict[PeerId, Calendar] = field(default_factory=dict)

    async def node(self, number: int, *, beats: bool = True, **how: object) -> MemoryNode:
        node = self.net.node(peer(number))
        await self.nursery.start(node.run)
        if beats:
            calendar = self.calendars[node.peer] = Calendar()
            beat = Heartbeat(node, wall_time=calendar, chance=lambda: 0.5, **how)
            self.beats[node.peer] = beat
            await self.nursery.start(beat.run)
        return node


@asynccontextmanager
async def stage(latency: float = 0.05) -> AsyncGenerator[Stage]:
    async with trio.open_nursery() as nursery:
        yield Stage(MemoryNetwork(seed=1, latency=latency), nursery)
        nursery.cancel_scope.cancel()


async def test_the_living_stay_connected_and_one_question_each_beat_is_enough(autojump_clock):
    async with stage() as s:
        one, two = await s.node(1), await s.node(2)
        asked = []
        inner = two._acceptors[PING]

        async def count(stream):
            asked.append(trio.current_time())
            await inner(stream)

        two.serve(PING, count)
        await one.connect(target(two))
        await trio.sleep(3600)
        assert one.connected() == {two.peer}
        assert two.connected() == {one.peer}
        assert len(asked) == 1  # one stream for all questions
        assert (s.beats[one.peer].dropped, s.beats[two.peer].dropped) == (0, 0)
        assert s.net.nodes[one.peer].failures == []


@pytest.mark.parametrize("how", ["freeze", "partition"])
async def test_a_half_dead_peer_is_dropped_on_both_sides_within_45_seconds(how, autojump_clock):
    async with stage() as s:
        one, two, three = await s.node(1), await s.node(2), await s.node(3)
        await one.connect(target(two))
        await two.connect(target(three))
        await one.connect(target(three))
        await trio.sleep(100)
        if how == "freeze":
            s.net.freeze(two.peer)
        else:
            s.net.partition([two.peer])
        with trio.fail_after(45):
            await until(lambda: two.peer not in one.connected() | three.connected(), 45)
            await until(lambda: two.connected() == frozenset(), 45)
        assert one.connected() == {three.peer}
        s.net.thaw(two.peer)
        s.net.heal()
        await one.connect(target(two))
        assert two.peer in one.connected()


async def test_a_peer_that_answers_no_question_is_dropped_and_one_that_cannot_is_not(autojump_clock):
    async with stage() as s:
        one, mute, foreign = await s.node(1), await s.node(2, beats=False), await s.node(3, beats=False)

        async def swallow(stream):
            while await stream.receive():
                pass

        mute.serve(PING, swallow)
        await one.connect(target(mute))
        await one.connect(target(foreign))
        with trio.fail_after(45):
            await until(lambda: one.connected() == {foreign.peer}, 45)
        await trio.sleep(600)
        assert one.connected() == {foreign.peer}  # that it does not speak the protocol is an answer


async def test_a_wrong_nonce_is_a_fault_and_no_answer(autojump_clock):
    async with stage() as s:
        one, liar = await s.node(1), await s.node(2, beats=False)

        async def lie(raw):
            stream = MessageStream(raw, 64)
            while (await stream.receive()) is not None:
                await stream.send(Pong(bytes(16)))

        liar.serve(PING, lie)
        await one.connect(target(liar))
        with trio.fail_after(45):
            await until(lambda: one.connected() == frozenset(), 45)
        assert one.scores.faults(liar.peer)[Fault.PROTOCOL] == 2


async def test_a_thousand_pings_a_second_get_a_handful_of_answers_and_cost_the_sender(autojump_clock):
    async with stage(latency=0.0) as s:
        one, flood = await s.node(1), await s.node(2, beats=False)
        await flood.connect(target(one))
        answers = 0
        for number in range(1000):
            try:
                stream = MessageStream(await flood.open(one.peer, PING))
                for _ in range(20):
                    await stream.send(Ping(number.to_bytes(16, "big")))
                    if await stream.receive(timeout=1) is None:
                        break
                    answers += 1
            except Unavailable:
                await stream.reset()
        assert answers <= ASKS_BURST + 0.5 * trio.current_time() + 1
        assert sum(isinstance(failure, PeerFault) for failure in one.failures) > 900


async def test_streams_of_questions_are_bounded_for_each_peer(autojump_clock):
    async with stage(latency=0.0) as s:
        one, greedy = await s.node(1), await s.node(2, beats=False)
        await greedy.connect(target(one))
        streams = [MessageStream(await greedy.open(one.peer, PING)) for _ in range(10)]
        await trio.sleep(1)
        assert s.beats[one.peer]._answering[greedy.peer] == MAX_STREAMS_EACH
        assert len(one.failures) == 10 - MAX_STREAMS_EACH
        await trio.sleep(120)  # and a stream without a question ends by itself
        assert s.beats[one.peer]._answering == {}
        assert len(streams) == 10


async def test_a_house_full_of_streams_can_still_be_asked(autojump_clock):
    async with stage(latency=0.0) as s:
        one, two = await s.node(1), await s.node(2)

        async def keep(stream):
            await stream.receive()

        two.serve("/pasar/test-keep/1", keep)
        await one.connect(target(two))
        kept = [await one.open(two.peer, "/pasar/test-keep/1") for _ in range(MAX_STREAMS)]
        await trio.sleep(300)
        assert len(kept) == MAX_STREAMS
        assert one.connected() == {two.peer}


async def test_after_a_sleep_everything_is_asked_at_once_and_the_dead_are_gone_in_seconds(autojump_clock):
    async with stage() as s:
        woken = []
        one = await s.node(1, woken=lambda: woken.append(trio.current_time()))
        two, three = await s.node(2), await s.node(3)
        await one.connect(target(two))
        await one.connect(target(three))
        await trio.sleep(40)
        s.net.freeze(two.peer)
        s.calendars[one.peer].ahead += 3600  # the laptop was shut for an hour
        with trio.fail_after(8):
            await until(lambda: one.connected() == {three.peer}, 8)
        assert len(woken) == 1


async def test_a_change_of_our_addresses_is_a_reason_to_ask(autojump_clock):
    async with stage() as s:
        place = ["10.0.0.1"]
        one = await s.node(1, place=lambda: tuple(place))
        two = await s.node(2)
        await one.connect(target(two))
        await trio.sleep(20)
        s.net.freeze(two.peer)
        place[0] = "192.168.1.7"
        with trio.fail_after(8):
            await until(lambda: one.connected() == frozenset(), 8)


async def test_a_connection_that_took_the_place_of_another_begins_anew(autojump_clock):
    async with stage() as s:
        one, two = await s.node(1), await s.node(2)
        two.serve(ECHO, echo)
        await one.connect(target(two))
        await trio.sleep(100)
        s.net.freeze(two.peer)
        watched = s.beats[one.peer]._watched
        await until(lambda: watched[two.peer].pulse._missed == 1, 45)  # one more, and it is over
        s.net.thaw(two.peer)
        await two.disconnect(one.peer)
        await two.connect(target(one))
        await trio.sleep(300)
        assert one.connected() == {two.peer}
        assert s.beats[one.peer].dropped == s.beats[two.peer].dropped == 0


# -- and whoever was lost is dialled again


async def test_the_lost_are_dialled_again_with_growing_pauses_and_met_again(autojump_clock, tmp_path):
    async with stage(latency=0.01) as s:
        book = AddressBook(tmp_path / "peers.json", lambda: 1000.0)
        one = await s.node(1, lost=lambda who: book.failed(who))
        others = [await s.node(number) for number in (2, 3, 4, 5)]
        keeper = Keeper(one, book, chance=lambda: 0.5)
        await s.nursery.start(keeper.run)
        targets = [target(other) for other in others]
        for each in targets:
            book.remember(each)
        await keeper.meet(targets)
        assert len(one.connected()) == 4
        s.net.partition([one.peer])
        with trio.fail_after(45):
            await until(lambda: one.connected() == frozenset(), 45)
        await trio.sleep(600)
        s.net.heal()
        with trio.fail_after(120):  # a minute and its jitter
            await until(lambda: len(one.connected()) == 4, 120)


async def test_a_wake_cuts_every_pause_short(autojump_clock):
    async with stage(latency=0.01) as s:
        one, two = await s.node(1, beats=False), await s.node(2, beats=False)
        keeper = Keeper(one, chance=lambda: 0.5)
        await s.nursery.start(keeper.run)
        s.net.partition([one.peer])
        s.nursery.start_soon(keeper.meet, [target(two)])
        await trio.sleep(600)
        s.net.heal()
        await until(lambda: not keeper._dialling)
        keeper.wake()
        with trio.fail_after(2):
            await until(lambda: one.connected() == {two.peer}, 2)


async def test_no_more_are_dialled_than_wanted_neighbours_and_nobody_dials_himself(autojump_clock):
    async with stage(latency=0.01) as s:
        one = await s.node(1, beats=False)
        others = [await s.node(number, beats=False) for number in range(2, 12)]
        keeper = Keeper(one, most=3, chance=lambda: 0.5)
        await s.nursery.start(keeper.run)
        await keeper.meet([target(one), *map(target, others), PeerAddrs(peer(99), ())])
        await trio.sleep(300)
        assert len(one.connected()) == 3
        first = next(iter(one.connected()))
        await one.disconnect(first)
        with trio.fail_after(60):
            await until(lambda: len(one.connected()) == 3, 60)


# -- and over real hosts


@pytest.mark.live
async def test_a_flood_of_pings_ends_on_the_graylist_and_an_honest_neighbour_stays():
    one, flood, honest = (Host(Identity(sha256(b"beat %d" % n).digest()), LOOPBACK) for n in range(3))
    beats = [Heartbeat(host, wall_time=time.time) for host in (one, honest)]
    async with trio.open_nursery() as nursery:
        for runs in (one, flood, honest, *beats):
            await nursery.start(runs.run)
        await honest.connect(target(one))
        await flood.connect(target(one))
        with trio.fail_after(60):
            while not one.scores.graylisted(flood.peer, trio.current_time()):
                try:
                    async with MessageStream(await flood.open(one.peer, PING)) as stream:
                        for number in range(1000):
                            await stream.send(Ping(number.to_bytes(16, "big")))
                            if await stream.receive(timeout=5) is None:
                                break
                except Unavailable:
                    continue
        for beat in beats:
            beat.suspect_all()  # asks now
        await until(lambda: all(not w.pulse.waits for w in beats[1]._watched.values()))
        await trio.sleep(2)
        assert honest.peer in one.connected()
        assert one.scores.score(honest.peer, trio.current_time()) == 0.0
        nursery.cancel_scope.cancel()


@pytest.mark.live
async def test_hosts_that_do_not_beat_are_watched_all_the_same(monkeypatch):
    one, silent = (Host(Identity(sha256(b"foreign %d" % n).digest()), LOOPBACK) for n in range(2))
    beat = Heartbeat(one, wall_time=time.time)
    async with trio.open_nursery() as nursery:
        for runs in (one, silent, beat):
            await nursery.start(runs.run)
        said: list[str] = []
        opens = one.open

        async def noted(who: PeerId, protocol: str) -> Stream:
            try:
                return await opens(who, protocol)
            except Unspoken as exc:
                said.append(str(exc))
                raise

        monkeypatch.setattr(one, "open", noted)
        await one.connect(target(silent))
        await until(lambda: silent.peer in beat._watched)
        for number in (1, 2):
            beat.suspect_all()
            await until(lambda number=number: len(said) == number and not beat._watched[silent.peer].pulse.waits)
        assert one.connected() == {silent.peer}
        assert beat.dropped == 0
        nursery.cancel_scope.cancel()


@pytest.mark.live
async def test_streams_of_ended_connections_are_given_back():
    one, two = (Host(Identity(sha256(b"back %d" % n).digest()), LOOPBACK) for n in range(2))
    beats = [Heartbeat(host, wall_time=time.time) for host in (one, two)]
    async with trio.open_nursery() as nursery:
        for runs in (one, two, *beats):
            await nursery.start(runs.run)
        for number in range(5):
            await one.connect(target(two))
            await until(lambda: two.peer in beats[0]._watched and one.peer in beats[1]._watched)
            for beat in beats:
                beat.suspect_all()
            # a question that met the last connection in its end is put again with the next beat only
            await until(lambda: all(w.stream is not None for beat in beats for w in beat._watched.values()), 60)
            await (two if number % 2 else one).disconnect((one if number % 2 else two).peer)
            await until(lambda: not (one._outbound or two._outbound or one.connected() or two.connected()))
        nursery.cancel_scope.cancel()


async def test_a_kept_stream_that_has_ended_is_no_miss(autojump_clock):
    async with stage() as s:
        one, two = await s.node(1), await s.node(2)
        await one.connect(target(two))
        await trio.sleep(40)
        for stream in tuple(two._streams):
            await stream.reset()
        pulse = s.beats[one.peer]._watched[two.peer].pulse
        missed = []
        for _ in range(60):
            await trio.sleep(1)
            missed.append(pulse._missed)
        assert max(missed) == 0
