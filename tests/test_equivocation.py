"""A seller that says two things: what proves it, what it costs, what is kept of it and who is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from market import proofkeeper
from market.book import OrderBook
from market.equivocation import MAX_PROOFS, Equivocation, culprit, which_goes
from market.hello import Greeter
from market.proofkeeper import COUNTS_S, SHOWN_BURST, ProofKeeper
from market.protocol import PROOF
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.errors import PeerFault, Unavailable
from p2p.memory import MemoryNetwork, MemoryNode, running
from p2p.peer import PeerId
from p2p.scores import GRAYLIST
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs
from tests.contracts.network import until
from tests.support.hostile import hung_up
from tests.support.market_values import NETWORK, NOW, SETTLEMENT, Key, signed_offer, stranger


def pair(number: int = 1, **changes: object) -> Equivocation:
    """Two offers of one seller under one serial, at two prices."""
    key = Key(number)
    made = [signed_offer(key, price=price, **changes)[1] for price in (1, 2)]
    return Equivocation(made[0], made[1])


def test_a_pair_convicts_its_signer_and_nobody_else() -> None:
    assert culprit(pair(), NETWORK) == Key(1).peer
    proof, stranger_key = pair(), Key(2)
    offer = signed_offer(Key(1), price=1)[0]
    wrong = [
        Equivocation(proof.one, proof.one),
        Equivocation(proof.one, signed_offer(stranger_key, price=2)[1]),
        Equivocation(proof.one, sign(replace(offer, price=2), stranger_key)),  # somebody else says it was him
        Equivocation(proof.one, signed_offer(Key(1), price=2, serial=offer.serial + 1)[1]),
        Equivocation(proof.one, signed_offer(Key(1), price=2, pipeline="verify-step")[1]),
        Equivocation(proof.one, Signed(proof.other.payload, bytes(64) + b"\x1b")),
        Equivocation(Signed(b"\xc1", bytes(65)), proof.other),
        pair(network="elsewhere"),
    ]
    for lie in wrong:
        with pytest.raises(PeerFault):
            culprit(lie, NETWORK)


def test_strangers_go_before_those_we_dealt_with() -> None:
    kept = {stranger(n): n for n in range(4)}
    assert which_goes(kept, {stranger(0)}) == stranger(1)
    assert which_goes(kept, set(kept)) == stranger(0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofkeeper, "LOOK_S", 0.01)


class Side:
    """One node with a book and a keeper."""

    def __init__(self, node: MemoryNode, path: Path, now: list[float]) -> None:
        self.node, self.now = node, now
        self.book = OrderBook(NETWORK)
        greeter = Greeter(NETWORK, "gateway", lambda: SETTLEMENT, lambda: now[0])
        self.keeper = ProofKeeper(node, greeter, self.book, path, lambda: now[0])
        self.convicted: list[PeerId] = []
        self.keeper.tell(self.convicted.append)

    def hear(self, proof: Equivocation) -> None:
        for envelope in (proof.one, proof.other):
            self.book.judge(encode(envelope), NOW)

    def shut_out(self, peer: PeerId) -> bool:
        return self.node.scores.score(peer, trio.current_time()) <= GRAYLIST


@asynccontextmanager
async def sides(path: Path, count: int = 2, now: float = NOW) -> AsyncGenerator[list[Side]]:
    network, clock = MemoryNetwork(), [now]
    nodes = [network.node(stranger(100 + n)) for n in range(count)]
    made = [Side(node, path / f"{n}" / "proofs", clock) for n, node in enumerate(nodes)]
    async with running(*nodes), trio.open_nursery() as nursery:
        for side in made:
            await nursery.start(side.keeper.run)
        for node in nodes[1:]:
            await nodes[0].connect(PeerAddrs(node.peer, (node._addr,)))
        yield made
        nursery.cancel_scope.cancel()


async def test_it_is_shut_out_here_and_where_the_proof_is_shown(
    tmp_path: Path,
) -> None:
    liar = Key(1).peer
    async with sides(tmp_path, 3) as (here, there, far):
        here.hear(pair())
        assert not here.shut_out(liar)
        await until(lambda: all(side.shut_out(liar) for side in (here, there, far)))
        for side in (here, there, far):
            assert side.convicted == [liar]
            assert len(side.keeper) == 1
        assert not any(here.node.scores.score(side.node.peer, trio.current_time()) for side in (there, far))
        await until(lambda: all((tmp_path / f"{n}" / "proofs").exists() for n in range(3)))


async def test_it_counts_again_after_a_restart_and_not_for_ever(
    tmp_path: Path,
) -> None:
    async with sides(tmp_path, 1) as (side,):
        side.hear(pair())
        await until((tmp_path / "0" / "proofs").exists)
    async with sides(tmp_path, 1) as (side,):
        assert side.convicted == [Key(1).peer]
        assert side.shut_out(Key(1).peer)
    async with sides(tmp_path, 1, now=NOW + COUNTS_S + 1) as (side,):
        assert side.convicted == []
    (tmp_path / "0" / "proofs").write_bytes(b"\xc1 no proofs")
    async with sides(tmp_path, 1) as (side,):
        assert len(side.keeper) == 0


async def test_a_lie_shown_as_a_proof_is_a_fault_of_who_shows_it(
    tmp_path: Path,
) -> None:
    async with sides(tmp_path) as (here, there):
        proof = pair()
        stream = MessageStream(await there.node.open(here.node.peer, PROOF))
        await there.keeper._greeter.say(stream, Equivocation(proof.one, proof.one))
        assert await hung_up(stream)
        assert [type(fault) for fault in here.node.failures] == [PeerFault]
        assert len(here.keeper) == 0


async def test_proofs_are_bounded_in_number_and_in_rate(tmp_path: Path) -> None:
    async with sides(tmp_path) as (here, there):
        stream = MessageStream(await there.node.open(here.node.peer, PROOF))
        await there.keeper._greeter.say(stream)
        with suppress(Unavailable):
            for number in range(100):
                await stream.send(pair(number))
        assert await hung_up(stream)
        assert len(here.keeper) <= SHOWN_BURST + 1
    async with sides(tmp_path / "many", 1) as (side,):
        for number in range(MAX_PROOFS + 20):
            side.keeper._convict(pair(number))
        assert len(side.keeper) == MAX_PROOFS
