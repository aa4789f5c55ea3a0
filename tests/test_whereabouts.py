"""A stuffed book makes room for whoever is connected, or has delivered; strangers that are nowhere go first."""

from __future__ import annotations

from market.book import OrderBook
from market.whereabouts import Whereabouts
from p2p.memory import MemoryNetwork, running
from p2p.transport import PeerAddrs, Verdict
from tests.support.market_values import NETWORK, NOW, PIPELINE, UNSIGNED, offer, stranger

FULL = 50


def stuffed() -> OrderBook:
    """A small book full of strangers, who are connected with nobody."""
    book = OrderBook(NETWORK, FULL)
    for number in range(FULL):
        assert book.post(offer(stranger(1000 + number), price=1), UNSIGNED, NOW) is Verdict.ACCEPT
    return book


async def test_a_connected_seller_finds_a_place_in_a_stuffed_book() -> None:
    network = MemoryNetwork()
    here, seller = network.node(stranger(1)), network.node(stranger(2))
    book = stuffed()
    assert book.post(offer(seller.peer), UNSIGNED, NOW) is Verdict.IGNORE, "one more stranger"
    async with running(here, seller):
        Whereabouts(here, book, [PIPELINE], lambda peer: b"net" if peer in here.connected() else None)
        assert book.post(offer(seller.peer), UNSIGNED, NOW) is Verdict.IGNORE
        await here.connect(PeerAddrs(seller.peer, (seller._addr,)))
        assert book.post(offer(seller.peer), UNSIGNED, NOW) is Verdict.ACCEPT
    assert len(book) == FULL
    assert book.posting(seller.peer, PIPELINE) is not None


async def test_who_connects_after_it_offered_is_located_too() -> None:
    network = MemoryNetwork()
    here, seller = network.node(stranger(1)), network.node(stranger(2))
    book = OrderBook(NETWORK, FULL)
    where = Whereabouts(here, book, [PIPELINE], lambda peer: b"net" if peer in here.connected() else None)
    book.post(offer(seller.peer), UNSIGNED, NOW)
    where.look()
    assert book.posting(seller.peer, PIPELINE).subnet is None  # type: ignore[union-attr]
    async with running(here, seller):
        await here.connect(PeerAddrs(seller.peer, (seller._addr,)))
        where.look()
    assert book.posting(seller.peer, PIPELINE).subnet == b"net"  # type: ignore[union-attr]


def test_who_delivered_keeps_its_place_under_any_flood() -> None:
    book = stuffed()
    book.measured(stranger(1000))
    for number in range(3 * FULL):
        book.post(offer(stranger(5000 + number), price=1), UNSIGNED, NOW, subnet=b"%d" % number)
    assert len(book) == FULL
    assert book.posting(stranger(1000), PIPELINE) is not None
