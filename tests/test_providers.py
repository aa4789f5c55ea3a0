"""The shelf of provider records under floods: of keys, of providers, of addresses; and that time empties it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.peer import PeerId, peer_of
from p2p.providers import KEYS_EACH, LIFE, PROVIDERS_EACH, SHARING, Provided, ProviderShelf, distance


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


OWN = peer(0)


def record(number: int, address: int | None = None, at: float = 0.0) -> Provided:
    return Provided(peer(number), ("/ip4/1.2.3.4/tcp/1",), None if address is None else bytes([address]), at)


def test_a_record_is_there_for_an_hour_after_it_was_last_said() -> None:
    shelf = ProviderShelf(OWN)
    assert shelf.put(b"k", record(1))
    assert shelf.put(b"k", record(1, at=LIFE - 1))
    assert [known.provider for known in shelf.get(b"k", LIFE + 1)] == [peer(1)]
    assert shelf.get(b"k", 2 * LIFE) == []
    shelf.expire(2 * LIFE)
    assert (len(shelf), shelf._written) == (0, {})


def test_a_provider_has_so_many_keys_and_we_ourselves_as_many_as_we_like() -> None:
    shelf = ProviderShelf(OWN)
    assert [shelf.put(b"%d" % n, record(1)) for n in range(KEYS_EACH + 1)] == [True] * KEYS_EACH + [False]
    assert all(shelf.put(b"%d" % n, record(0)) for n in range(2 * KEYS_EACH))
    assert shelf.put(b"0", record(1, at=9.0))  # what it has it may say again


def test_a_flood_of_keys_takes_those_that_others_keep() -> None:
    """Whoever fills the shelf fills it with keys far from us; a key near us, which is ours to keep, finds a place."""
    shelf = ProviderShelf(OWN, most_keys=64)
    for number in range(500):
        shelf.put(b"junk %d" % number, record(1 + number))
    assert len(shelf) == 64
    kept = sorted((distance(OWN, b"junk %d" % n), n) for n in range(500))[:64]
    assert all(b"junk %d" % n in shelf for _, n in kept)
    nearest = min((b"honest %d" % n for n in range(5000)), key=lambda key: distance(OWN, key))
    assert shelf.put(nearest, record(9999))
    assert len(shelf) == 64


def test_an_address_crowds_nobody_out_of_a_key() -> None:
    shelf = ProviderShelf(OWN)
    assert [shelf.put(b"k", record(n + 1, address=1)) for n in range(SHARING + 1)] == [True] * SHARING + [False]
    for number in range(PROVIDERS_EACH):  # more addresses, each as full as it may be
        shelf.put(b"k", record(100 + number, address=2 + number // SHARING, at=float(number)))
    assert len(shelf.get(b"k", 1.0)) == PROVIDERS_EACH
    assert shelf.put(b"k", record(1000, address=99))
    there = {known.provider for known in shelf.get(b"k", 1.0)}
    assert peer(1000) in there
    assert len(there) == PROVIDERS_EACH


def test_where_addresses_bind_nobody_the_first_keep_their_places() -> None:
    shelf = ProviderShelf(OWN)
    assert [shelf.put(b"k", record(n + 1)) for n in range(PROVIDERS_EACH + 1)] == [True] * PROVIDERS_EACH + [False]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 3)), max_size=300))
def test_what_is_counted_is_what_is_there(puts: list[tuple[int, int, int]]) -> None:
    shelf = ProviderShelf(OWN, most_keys=4)
    for number, (who, key, address) in enumerate(puts):
        shelf.put(b"%d" % key, record(who, address or None, at=float(number)))
    there = [known.provider for key in shelf._keys for known in shelf.get(key, 0.0)]
    assert len(shelf) <= 4
    assert {who: there.count(who) for who in there} == dict(shelf._written)
    shelf.expire(LIFE + len(puts))
    assert (len(shelf), shelf._written) == (0, {})
