"""Two books compared by sums: what is lacking is found exactly, in few rounds; lies cost a bounded number of them."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bookwire import MAX_ITEMS, MAX_SPANS, PARTS, Described, Item, Part, Span
from market.reconcile import (
    MAX_ASKED,
    MAX_DEPTH,
    MAX_LACKING,
    WHOLE,
    Descent,
    Snapshot,
    joined,
    within,
)
from p2p.errors import PeerFault
from p2p.peer import PeerId
from tests.support.market_values import stranger

SALT = b"s" * 16
Book = Mapping[PeerId, bytes]


def snapshot(book: Book, salt: bytes = SALT) -> Snapshot:
    made = Snapshot(salt)
    for seller in sorted(book):
        made.add(seller, book[seller])
    return made


def compared(own: Book, theirs: Book) -> tuple[set[PeerId], list[Span], int]:
    """What a session finds lacking, the spans it would rather have whole, and its rounds."""
    descent, there, rounds = Descent(snapshot(own)), snapshot(theirs), 0
    while spans := descent.ask():
        assert len(spans) <= MAX_SPANS
        descent.heard([there.describe(span) for span in spans])
        rounds += 1
    return set(descent.lacking), joined(descent.pages), rounds


books = st.dictionaries(st.integers(0, 300).map(stranger), st.sampled_from([b"one", b"two"]), max_size=200)


@given(books, books)
def test_a_session_finds_what_is_lacking_and_nothing_else(own: Book, theirs: Book) -> None:
    lacking, pages, _ = compared(own, theirs)
    wanted = {seller for seller in theirs if own.get(seller) != theirs[seller]}
    paged = {seller for seller in theirs if any(within(span, seller) for span in pages)}
    assert lacking <= wanted <= lacking | paged
    assert not lacking & paged
    for span in pages:
        here = sum(within(span, seller) for seller in own)
        there = sum(within(span, seller) for seller in theirs)
        assert 2 * here < there, "a page of what we have already is dear"


@given(books, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_sums_depend_on_the_offers_and_the_salt_alone(book: Book, salt: bytes, other: bytes) -> None:
    one, two = snapshot(book, salt), snapshot(dict(reversed(list(book.items()))), salt)
    assert one.describe(WHOLE) == two.describe(WHOLE)
    assert (one.part(WHOLE).sum == snapshot(book, other).part(WHOLE).sum) == (salt == other)
    for seller in list(book)[:5]:
        changed = snapshot({**book, seller: book[seller] + b"!"}, salt)
        assert changed.part(WHOLE).sum != one.part(WHOLE).sum


@given(books, st.lists(st.integers(0, 300).map(stranger), min_size=2, max_size=2, unique=True))
def test_a_description_covers_its_span_and_counts_it(book: Book, ends: list[PeerId]) -> None:
    span = Span(*sorted(ends))
    told, inside = snapshot(book).describe(span), {seller for seller in book if within(span, seller)}
    if len(inside) <= MAX_ITEMS:
        assert [item.seller for item in told.items] == sorted(inside)
    else:
        assert len(told.parts) == PARTS
        assert sum(part.offers for part in told.parts) == len(inside)
        assert told.parts[-1].until == span.until


@pytest.mark.parametrize(("size", "differing"), [(3_000, 0), (3_000, 1), (10_000, 30), (30_000, 3)])
def test_large_books_are_compared_in_few_rounds_and_bytes(size: int, differing: int) -> None:
    chance = random.Random(size + differing)
    theirs = {stranger(number): number.to_bytes(4, "big") for number in range(size)}
    gone = set(chance.sample(sorted(theirs), differing))
    own = {seller: payload for seller, payload in theirs.items() if seller not in gone}
    descent, there, rounds, described = Descent(snapshot(own)), snapshot(theirs), 0, 0
    while spans := descent.ask():
        told = [there.describe(span) for span in spans]
        described += sum(len(one.parts) + len(one.items) for one in told)
        descent.heard(told)
        rounds += 1
    paged = {seller for seller in theirs if any(within(span, seller) for span in descent.pages)}
    assert set(descent.lacking) | paged == gone
    assert rounds <= 1 + 3 * bool(differing)
    assert described <= PARTS + differing * (2 * PARTS + MAX_ITEMS)


def test_an_empty_book_wants_pages_and_a_full_one_nothing() -> None:
    theirs = {stranger(number): b"x" for number in range(500)}
    assert compared({}, theirs) == (set(), [WHOLE], 1)
    assert compared(theirs, {}) == (set(), [], 1)


# -- a neighbour that lies -------------------------------------------------------------------------------------------


def forged(span: Span, chance: random.Random, offers: int = 10**6) -> Described:
    """A span said to differ everywhere, cut where it can be cut."""
    low = int.from_bytes((span.after or stranger(0))[-32:], "big")
    high = int.from_bytes((span.until or stranger(2**255))[-32:], "big")
    cuts = [stranger(low + (high - low) * part // PARTS) for part in range(1, PARTS)]
    ends = [*cuts, span.until] if high - low > PARTS else [span.until]
    return Described(tuple(Part(end, offers, chance.randbytes(16)) for end in ends), ())


def test_sums_that_never_agree_end_with_the_budget() -> None:
    chance, own = random.Random(7), snapshot({stranger(n * 2**240): b"x" for n in range(1, 2000)})
    descent, told = Descent(own), 0
    while spans := descent.ask():
        told += len(spans)
        descent.heard([forged(span, chance, offers=1) for span in spans])
    assert told == descent.spans <= MAX_ASKED


def test_offers_that_are_not_there_are_asked_for_a_bounded_number_of_times() -> None:
    chance, descent = random.Random(7), Descent(snapshot({}))
    descent.heard([])  # nothing was asked for
    rounds = 0
    while spans := descent.ask():
        rounds += 1
        many = [Item(seller, chance.randbytes(16)) for seller in map(stranger, range(1, MAX_ITEMS + 1))]
        descent.heard([Described((), tuple(many)) for _ in spans])
    assert rounds == 1
    assert len(descent.lacking) <= MAX_ITEMS <= MAX_LACKING
    assert MAX_DEPTH * PARTS < MAX_ASKED


A, B, C = stranger(1), stranger(2), stranger(3)
SUM = bytes(16)


@pytest.mark.parametrize(
    "told",
    [
        [],
        [Described((), ()), Described((), ())],
        [Described((Part(None, 1, SUM),), (Item(A, SUM),))],
        [Described((Part(None, 9, SUM),), ())],  # all of the span again
        [Described((Part(A, 9, SUM), Part(B, 9, SUM)), ())],  # the end is missing
        [Described((Part(B, 9, SUM), Part(A, 9, SUM), Part(None, 9, SUM)), ())],
        [Described((Part(A, 9, SUM), Part(A, 9, SUM), Part(None, 9, SUM)), ())],
        [Described((Part(None, 9, SUM), Part(None, 9, SUM)), ())],
        [Described((), (Item(B, SUM), Item(A, SUM)))],
        [Described((), (Item(A, SUM), Item(A, SUM)))],
    ],
)
def test_what_describes_no_span_is_a_fault(told: list[Described]) -> None:
    descent = Descent(snapshot({}))
    assert descent.ask() == (WHOLE,)
    with pytest.raises(PeerFault):
        descent.heard(told)


def test_offers_outside_their_span_are_a_fault() -> None:
    descent = Descent(snapshot({A: b"1", B: b"2", C: b"3"}))
    descent.ask()
    descent.heard([Described((Part(A, 3, SUM), Part(None, 3, SUM)), ())])
    assert descent.ask() == (Span(None, A), Span(A, None))
    with pytest.raises(PeerFault):
        descent.heard([Described((), (Item(B, SUM),)), Described((), ())])


def test_spans_that_touch_are_one() -> None:
    assert joined([Span(B, C), Span(None, A), Span(A, B)]) == [Span(None, C)]
    assert joined([Span(C, None), Span(A, B)]) == [Span(A, B), Span(C, None)]
    with pytest.raises(ValueError, match="order"):
        snapshot({A: b"1"}).add(A, b"2")
