"""The address book: order, bounds, and a file that survives and may be garbage."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.addressbook import AddressBook
from p2p.bootstrap import Bootstrap
from p2p.memory import MemoryNetwork, running
from p2p.peer import PeerId, peer_of
from p2p.transport import PeerAddrs
from tests.contracts.network import target, until


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


def at(number: int, *addrs: str) -> PeerAddrs:
    return PeerAddrs(peer(number), addrs or (f"/ip4/10.0.0.{number % 250}/tcp/4001",))


def empty(tmp_path, most: int = 1000, now: float = 1000.0) -> AddressBook:
    return AddressBook(tmp_path / "peers.json", lambda: now, most=most)


async def test_the_book_is_there_again_after_a_restart(tmp_path):
    book = empty(tmp_path)
    book.remember(at(1), "gateway")
    book.remember(at(2))
    book.succeeded(peer(2))
    book.failed(peer(1))
    await book.save()
    again = await AddressBook.load(tmp_path / "peers.json", lambda: 2000.0)
    assert again.best(10) == (at(2), at(1))
    assert again.best(10, kind="gateway") == (at(1),)
    assert (tmp_path / "peers.json").stat().st_mode & 0o777 == 0o600


def test_the_reliable_come_first_and_then_the_recent(tmp_path):
    now = [0.0]
    book = AddressBook(tmp_path / "peers.json", lambda: now[0])
    for number in range(4):
        book.remember(at(number))
    for number, successes, failures in ((0, 1, 9), (1, 9, 1), (2, 9, 1)):
        for _ in range(successes):
            now[0] += 1
            book.succeeded(peer(number))
        for _ in range(failures):
            book.failed(peer(number))
    assert [found.peer for found in book.best(4)] == [peer(n) for n in (2, 1, 3, 0)]
    assert [found.peer for found in book.best(2, but={peer(2)})] == [peer(1), peer(3)]


def test_the_book_is_bounded_and_the_worst_leaves(tmp_path):
    book = empty(tmp_path, most=3)
    for number in (1, 2, 3):
        book.remember(at(number))
    book.failed(peer(2))
    book.remember(at(4))
    assert len(book) == 3
    assert peer(2) not in book
    assert peer(4) in book


def test_what_nobody_could_dial_is_not_remembered(tmp_path):
    book = empty(tmp_path)
    book.remember(at(1, "/ip4/10.0.0.1/udp/1/quic", "nonsense", "/ip4/1.2.3.4/tcp/99999", "/ip4/x/tcp/1" + "0" * 200))
    assert len(book) == 0
    book.remember(at(1, *(f"/ip4/10.0.0.1/tcp/{port}" for port in range(1, 100))))
    assert len(book.best(1)[0].addrs) == 8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 5_000,
        b"\xff\xfe",
        b'{"version": 2, "peers": []}',
        b'{"version":1,"peers":[[1,2]]}',
    ],
)
async def test_a_garbled_file_is_set_aside(content, tmp_path):
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    book = await AddressBook.load(path, lambda: 0.0)
    assert len(book) == 0
    assert not path.exists()
    assert path.with_name("peers.json.garbled").read_bytes() == content
    book.remember(at(1))
    await book.save()
    assert len(await AddressBook.load(path, lambda: 0.0)) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.lists(st.lists(json_values, min_size=6, max_size=6), max_size=3))
async def test_no_content_is_worse_than_an_empty_book(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("book") / "peers.json"
    path.write_text(json.dumps({"version": 1, "peers": rows}))
    assert len(await AddressBook.load(path, lambda: 0.0)) == 0


async def test_a_dead_bootstrap_hurts_nobody_who_was_here_before(tmp_path, autojump_clock):
    network = MemoryNetwork(latency=0.01)
    boot, old, new = (network.node(peer(n)) for n in range(3))
    book = empty(tmp_path)
    book.remember(target(old))
    async with running(old, new):  # boot does not run
        bootstrap = Bootstrap(new, [target(boot)], book, chance=lambda: 0.5)
        async with trio.open_nursery() as nursery:
            await nursery.start(bootstrap.run)
            await until(lambda: new.connected() == {old.peer})
            nursery.cancel_scope.cancel()


async def test_a_bootstrap_that_comes_back_is_joined_again(autojump_clock):
    network = MemoryNetwork(latency=0.01)
    boot, node = network.node(peer(0)), network.node(peer(1))
    async with running(node), trio.open_nursery() as nursery:
        await nursery.start(Bootstrap(node, [target(boot)], chance=lambda: 0.5).run)
        await trio.sleep(30)
        assert node.connected() == frozenset()
        await nursery.start(boot.run)
        await until(lambda: node.connected() == {boot.peer}, 120)
        await boot.disconnect(node.peer)
        await until(lambda: node.connected() == {boot.peer}, 10)
        nursery.cancel_scope.cancel()
