"""A node's place in the network: the private ones keep connections and are served over them, whatever dies."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from market import overlay as overlay_module
from market.overlay import SEEK_PATIENCE_S, Overlay, Wiring, open_book
from p2p.errors import Unavailable
from p2p.heartbeat import Heartbeat
from p2p.identity import Identity
from p2p.keeper import Keeper
from p2p.memory import MemoryNetwork
from p2p.peer import PeerId, peer_of
from p2p.standing import Reach
from p2p.transport import PeerAddrs, Verdict
from tests.contracts.network import ECHO, echo, read_all, target, until

SELLS = ("orchestrator",)
TOPIC = "pasar/test/offers"


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


class Town:
    """Overlays of one network in this process, on loopback; those named in ``walled`` can be dialled by nobody."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        self.walled: set[PeerId] = set()
        self.scopes: dict[PeerId, trio.CancelScope] = {}

    async def knock(self, who: PeerId, ip: str, port: int) -> bool:
        await trio.lowlevel.checkpoint()
        return who not in self.walled

    async def node(self, name: str, first: tuple[PeerAddrs, ...] = (), *, sells: bool = False) -> Overlay:
        identity = Identity(sha256(name.encode()).digest())
        kinds, wanted = (SELLS, ("gateway",)) if sells else (("gateway",), SELLS)
        wiring = Wiring(
            "test", ("/ip4/127.0.0.1/tcp/0",), (), first, None, kinds=kinds, wanted=wanted, must_be_dialled=not sells
        )
        book = await open_book(self.folder / name, time.time)
        made = Overlay(identity, wiring, book, time.time)
        if sells:
            self.walled.add(identity.peer)

        async def live(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.CancelScope() as self.scopes[identity.peer]:
                await made.run(task_status=task_status)

        await self.nursery.start(live)
        await made.put_records()
        return made

    async def end(self, node: Overlay) -> None:
        self.scopes[node.host.peer].cancel()
        await trio.sleep(0.1)


@asynccontextmanager
async def town(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Town]:
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            made = Town(folder, nursery)
            monkeypatch.setattr(overlay_module, "knock", made.knock)
            yield made
            nursery.cancel_scope.cancel()


@pytest.mark.live
async def test_a_private_orchestrator_is_served_over_the_connections_that_it_keeps(tmp_path, monkeypatch):
    async with town(tmp_path, monkeypatch) as t:
        boot = await t.node("boot")
        first = (target(boot.host),)
        gateways = [await t.node(f"gateway {number}", first) for number in range(3)]
        seller = await t.node("seller", first, sells=True)
        private = seller.host.peer
        seller.host.serve(ECHO, echo)
        assert seller.dialback.reach is Reach.PRIVATE
        assert not seller.host.announces()
        assert seller.host.addrs()  # it listens all the same, and says so to its operator
        await until(lambda: all(private in gateway.host.connected() for gateway in gateways))
        await until(lambda: all(gateway.host.peer in seller._keeper for gateway in gateways))  # found by their keys
        for gateway in gateways:
            await gateway.reach(private)
            stream = await gateway.host.open(private, ECHO)
            await stream.send(b"back")
            await stream.finish()
            assert await read_all(stream) == b"back"
        lost = gateways[0]
        await t.end(boot)  # and nobody who was here before is hurt by it
        await lost.host.disconnect(private)
        await until(lambda: private in lost.host.connected(), 30)
        assert gateways[1].host.link(private).dialled is False
        await t.end(seller)  # it comes back, and its bootstrap does not
        await until(lambda: private not in lost.host.connected())
        again = await t.node("seller", first, sells=True)
        await until(lambda: all(private in gateway.host.connected() for gateway in gateways), 60)
        assert again.host.connected() == {gateway.host.peer for gateway in gateways}


@pytest.mark.live
async def test_who_cannot_be_dialled_and_is_not_connected_is_unavailable_at_once(tmp_path, monkeypatch):
    async with town(tmp_path, monkeypatch) as t:
        gateway = await t.node("gateway")
        stranger = peer(7)
        look_once = gateway.look_once

        async def slowly():
            await trio.sleep(1)
            return await look_once()

        monkeypatch.setattr(gateway, "look_once", slowly)
        with trio.fail_after(SEEK_PATIENCE_S + 5), pytest.raises(Unavailable, match="no open port"):
            await gateway.reach(stranger)
        asked: list[str] = []
        monkeypatch.setattr(gateway, "look_once", lambda: asked.append("again"))
        with pytest.raises(Unavailable, match="a moment ago"):
            await gateway.reach(stranger)
        assert asked == []
        here = target(gateway.host).addrs[0].rpartition("/")[0]
        gateway.remember([PeerAddrs(peer(8), (f"{here}/1",))], "")  # nobody listens there now
        for _ in range(3):
            with pytest.raises(Unavailable, match="nobody is"):  # it said so at once: it may be back at any moment
                await gateway.reach(peer(8))
            await trio.sleep(0.5)


@pytest.mark.live
async def test_a_gateway_announces_what_it_listens_on_whatever_liars_say(tmp_path, monkeypatch):
    async with town(tmp_path, monkeypatch) as t:
        gateway = await t.node("gateway")
        before = gateway.host.library.get_addrs()
        gateway._reach_changed(Reach.PRIVATE, ())
        assert gateway.host.library.get_addrs() == before
        gateway._reach_changed(Reach.PUBLIC, ("/ip4/203.0.113.9/tcp/4001",))
        said = [str(addr).partition("/p2p/")[0] for addr in gateway.host.library.get_addrs()]
        assert said[0] == "/ip4/203.0.113.9/tcp/4001"
        assert set(said[1:]) == {str(addr).partition("/p2p/")[0] for addr in before}


async def test_two_halves_that_were_cut_apart_are_one_network_again(autojump_clock):
    net = MemoryNetwork(seed=3, latency=0.02)
    nodes = [net.node(peer(number)) for number in range(6)]
    keepers = [Keeper(node, chance=lambda: 0.5) for node in nodes]
    async with trio.open_nursery() as nursery:
        for node, keeper in zip(nodes, keepers, strict=True):
            await nursery.start(node.run)
            await nursery.start(Heartbeat(node, wall_time=lambda: 1.7e9 + trio.current_time()).run)
            await nursery.start(keeper.run)
            await node.join(TOPIC, lambda _peer, _data: Verdict.ACCEPT)
        everybody = [target(node) for node in nodes]
        for keeper in keepers:
            await keeper.meet(everybody)
        halves = [node.peer for node in nodes[:3]], [node.peer for node in nodes[3:]]
        net.partition(*halves)
        with trio.fail_after(45):
            for node, own in zip(nodes, [halves[0]] * 3 + [halves[1]] * 3, strict=True):
                await until(lambda node=node, own=own: node.connected() == set(own) - {node.peer}, 45)
        await trio.sleep(900)
        async with nodes[5].subscribe(TOPIC) as inbox:
            await nodes[0].publish(TOPIC, b"unheard")
            await trio.sleep(5)
            assert inbox.statistics().current_buffer_used == 0
            net.heal()
            with trio.fail_after(120):
                for node in nodes:
                    await until(lambda node=node: len(node.connected()) == 5, 120)
            await nodes[0].publish(TOPIC, b"heard")
            assert (await inbox.receive()).data == b"heard"
        nursery.cancel_scope.cancel()


async def test_a_node_looks_less_and_less_often_whatever_it_finds(tmp_path, monkeypatch, autojump_clock):
    wiring = Wiring("test", ("/ip4/127.0.0.1/tcp/0",), (), (), None, kinds=("gateway",), wanted=SELLS)
    node = Overlay(Identity(sha256(b"looks").digest()), wiring, await open_book(tmp_path, time.time), time.time)
    looks: list[float] = []

    async def look() -> tuple[PeerAddrs, ...]:
        looks.append(trio.current_time())
        node.found.add(peer(len(looks)))  # somebody new each time
        return ()

    monkeypatch.setattr(node, "look_once", look)
    monkeypatch.setattr(node.host, "connected", lambda: {peer(1)})
    with trio.move_on_after(200):
        await node._look()
    assert [round(at - looks[0]) for at in looks] == [0, 2, 6, 14, 30, 62, 122, 182]
