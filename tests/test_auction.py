"""The auction as stories, and as a day of it: no award above limit or offer, one at a time, every end released."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.auction import (
    AWARD_ANSWER_MS,
    LONGEST_WINDOW_MS,
    PATIENT_WINDOW_MS,
    Ask,
    Auction,
    AwardTo,
    Buyer,
    Command,
    GiveUp,
    NoteFault,
    NoteRefusal,
    NoteSilence,
    Phase,
    ReleaseQuote,
)
from market.bid import Prefer
from market.offer import Offer
from market.prefilter import Terms, prefilter
from market.quote import MAX_HOLD_MS, RFQ, Quote, late_rate_for
from market.refusal import Code
from market.scoring import View
from p2p.peer import PeerId
from tests.support.market_values import NETWORK, NOW, SETTLEMENT, UNSIGNED, book_of, offer, shape, stranger

GATEWAY = stranger(999)
NONCE = b"\x05" * 16
LIMIT = 10**6


def auction(*offers: Offer, views: dict[PeerId, View] | None = None, **changes: object) -> Auction:
    terms = Terms(shape(), SETTLEMENT, LIMIT, 60_000)
    matched = prefilter(book_of(*offers), terms, views or {}, NOW)
    buyer = replace(Buyer(GATEWAY, NETWORK, SETTLEMENT, Prefer.PRICE, deadline=60_000), **changes)
    return Auction(buyer, matched, NONCE)


def sellers(count: int) -> list[Offer]:
    return [offer(stranger(n), price=n * 10**6) for n in range(1, count + 1)]


def quote(asked: RFQ, made: Offer, **changes: object) -> Quote:
    price = changes.pop("price", made.price_of(asked.shape))
    assert isinstance(price, int)
    plain = Quote(
        rfq=asked.digest,
        network=NETWORK,
        settlement=SETTLEMENT,
        seller=made.seller,
        gateway=GATEWAY,
        price=price,
        finish_by_ms=1000,
        hold_ms=asked.hold_ms,
        late_rate=late_rate_for(price),
        offer_serial=made.serial,
        queue=0,
    )
    return replace(plain, **changes)


def rfqs(commands: list[Command]) -> dict[PeerId, RFQ]:
    return {command.seller: command.rfq for command in commands if isinstance(command, Ask)}


def told(commands: list[Command]) -> Code:
    [last] = [command for command in commands if isinstance(command, GiveUp)]
    return last.refusal.code


def test_the_cheapest_of_three_quotes_wins_and_the_others_are_released() -> None:
    made = sellers(3)
    one = auction(*made)
    asked = rfqs(one.start(random.Random(1), 0))
    assert set(asked) == {o.seller for o in made}
    assert all(rfq.take_at == 0 for rfq in asked.values())
    quotes = [quote(asked[o.seller], o) for o in made]
    assert one.quoted(made[2].seller, quotes[2], UNSIGNED, 50) == []
    assert one.quoted(made[0].seller, quotes[0], UNSIGNED, 60) == []
    assert one.quoted(made[1].seller, quotes[1], UNSIGNED, 70) == [AwardTo(made[0], quotes[0], UNSIGNED)]
    assert one.accepted(made[1].seller) == [], "it has no award"
    released = one.accepted(made[0].seller)
    assert sorted(c.seller for c in released if isinstance(c, ReleaseQuote)) == [made[1].seller, made[2].seller]
    assert one.phase is Phase.DONE
    assert one.wake_at is None
    assert one.accepted(made[0].seller) == []


def test_an_award_that_is_declined_falls_to_the_next_quote() -> None:
    made = sellers(2)
    one = auction(*made)
    asked = rfqs(one.start(random.Random(1), 0))
    for o in made:
        commands = one.quoted(o.seller, quote(asked[o.seller], o), UNSIGNED, 10)
    assert [c.seller for c in commands if isinstance(c, AwardTo)] == [made[0].seller]
    second = quote(asked[made[1].seller], made[1])
    assert one.declined(made[0].seller, 20) == [NoteRefusal(made[0].seller), AwardTo(made[1], second, UNSIGNED)]
    commands = one.lost(made[1].seller, 30)
    assert commands[0] == NoteRefusal(made[1].seller)
    assert told(commands) is Code.BUSY


def test_a_quote_whose_hold_ran_out_is_no_fallback() -> None:
    made = sellers(2)
    one = auction(*made)
    asked = rfqs(one.start(random.Random(1), 0))
    for o in made:
        one.quoted(o.seller, quote(asked[o.seller], o), UNSIGNED, 10)
    assert told(one.declined(made[0].seller, 10 + MAX_HOLD_MS)) is Code.BUSY


def test_an_unanswered_award_is_over_at_its_time() -> None:
    [made] = sellers(1)
    one = auction(made)
    asked = rfqs(one.start(random.Random(1), 0))
    one.quoted(made.seller, quote(asked[made.seller], made), UNSIGNED, 10)
    assert one.wake_at == 10 + AWARD_ANSWER_MS
    assert one.tick(10 + AWARD_ANSWER_MS - 1) == []
    assert told(one.tick(10 + AWARD_ANSWER_MS)) is Code.BUSY


def test_a_single_candidate_may_take_the_job_at_its_own_offer() -> None:
    [made] = sellers(1)
    one = auction(made)
    asked = rfqs(one.start(random.Random(1), 0))[made.seller]
    assert asked.take_at == made.price_of(shape())
    taken = quote(asked, made, taken=True)
    assert one.quoted(made.seller, taken, UNSIGNED, 5) == [AwardTo(made, taken, UNSIGNED)]


def test_the_window_follows_the_slowest_candidate() -> None:
    made = sellers(3)
    for rtts, window in [((1, 2, 3), 200), ((1, 150, 3), 300), ((1, 2, 900), 800)]:
        views = {o.seller: View(rtt_ms=rtt, exposure_wei=10**18) for o, rtt in zip(made, rtts, strict=True)}
        one = auction(*made, views=views)
        asked = rfqs(one.start(random.Random(1), 100))
        assert one.wake_at == 100 + window
        assert {rfq.hold_ms for rfq in asked.values()} == {window + 500}


def test_at_the_window_the_quotes_in_hand_decide_and_a_later_one_is_released() -> None:
    made = sellers(3)
    one = auction(*made, views={o.seller: View(rtt_ms=1) for o in made})
    asked = rfqs(one.start(random.Random(1), 0))
    one.quoted(made[2].seller, quote(asked[made[2].seller], made[2]), UNSIGNED, 10)
    assert one.tick(199) == []
    [award] = one.tick(200)
    assert isinstance(award, AwardTo)
    assert award.seller == made[2].seller
    late = quote(asked[made[0].seller], made[0])
    assert one.quoted(made[0].seller, late, UNSIGNED, 210) == [], "kept as a fallback"
    assert one.accepted(made[2].seller) == [ReleaseQuote(made[0].seller, late.rfq)]
    last = quote(asked[made[1].seller], made[1])
    assert one.quoted(made[1].seller, last, UNSIGNED, 220) == [ReleaseQuote(made[1].seller, last.rfq)]


def test_without_a_quote_it_waits_to_the_longest_window_then_asks_others() -> None:
    made = sellers(5)
    one = auction(*made, views={o.seller: View(rtt_ms=1) for o in made})
    first = rfqs(one.start(random.Random(1), 0))
    assert one.tick(200) == []
    assert one.wake_at == LONGEST_WINDOW_MS
    commands = one.tick(LONGEST_WINDOW_MS)
    assert {c.seller for c in commands if isinstance(c, NoteSilence)} == set(first)
    second = rfqs(commands)
    assert set(second) == {o.seller for o in made} - set(first)
    late = made[0]
    for seller in second:
        commands = one.refused(seller, 900)
    assert told(commands) is Code.BUSY
    assert one.quoted(late.seller, quote(first[late.seller], late), UNSIGNED, 950) == [
        ReleaseQuote(late.seller, first[late.seller].digest)
    ]


def test_refusals_of_all_lead_to_others_at_once() -> None:
    made = sellers(4)
    one = auction(*made)
    first = rfqs(one.start(random.Random(1), 0))
    commands: list[Command] = []
    for seller in first:
        commands = one.refused(seller, 5)
    assert len(rfqs(commands)) == 1
    assert one.refused(next(iter(first)), 6) == [], "twice is once"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": 163_841}, "above its own offer"),
        ({"gateway": stranger(5)}, "somebody else"),
        ({"seller": stranger(5)}, "somebody else"),
        ({"network": "main"}, "another network"),
        ({"taken": True}, "taken"),
    ],
)
def test_a_quote_against_its_own_word_is_a_fault(changes: dict[str, object], reason: str) -> None:
    made = sellers(2)
    one = auction(*made)
    asked = rfqs(one.start(random.Random(1), 0))
    commands = one.quoted(made[0].seller, quote(asked[made[0].seller], made[0], **changes), UNSIGNED, 5)
    [fault] = commands
    assert isinstance(fault, NoteFault)
    assert reason in fault.reason
    assert fault.proof is UNSIGNED


def test_a_quote_under_a_newer_and_dearer_offer_is_no_fault_and_does_not_win() -> None:
    made = sellers(2)
    one = auction(*made)
    asked = rfqs(one.start(random.Random(1), 0))
    newer = quote(asked[made[0].seller], made[0], price=200_000, offer_serial=2)
    assert one.quoted(made[0].seller, newer, UNSIGNED, 5) == [ReleaseQuote(made[0].seller, newer.rfq)]


def test_a_quote_past_the_deadline_does_not_win() -> None:
    [made] = sellers(1)
    one = auction(made)
    asked = rfqs(one.start(random.Random(1), 0))[made.seller]
    commands = one.quoted(made.seller, quote(asked, made, finish_by_ms=59_996), UNSIGNED, 5)
    assert ReleaseQuote(made.seller, asked.digest) in commands
    assert told(commands) is Code.BUSY


def test_the_deadline_ends_it() -> None:
    made = sellers(2)
    one = auction(*made, deadline=150)
    one.start(random.Random(1), 0)
    assert one.wake_at == 150
    assert told(one.tick(150)) is Code.DEADLINE


def test_a_speed_preferring_bid_pays_for_a_faster_promise() -> None:
    made = sellers(2)
    matched = prefilter(book_of(*made), Terms(shape(), SETTLEMENT, LIMIT, 60_000, price_of_time=10**6), {}, NOW)
    one = Auction(Buyer(GATEWAY, NETWORK, SETTLEMENT, Prefer.SPEED, 60_000), matched, NONCE)
    asked = rfqs(one.start(random.Random(1), 0))
    one.quoted(made[0].seller, quote(asked[made[0].seller], made[0], finish_by_ms=5000), UNSIGNED, 5)
    [award] = one.quoted(made[1].seller, quote(asked[made[1].seller], made[1], finish_by_ms=1000), UNSIGNED, 6)
    assert isinstance(award, AwardTo)
    assert award.seller == made[1].seller


@pytest.mark.parametrize("waits", [True, False])
def test_a_bid_that_waits_asks_no_strangers_after_whoever_is_there(waits: bool) -> None:
    made = sellers(4)
    met = View(False, False, False, False, 800_000, {}, 0, None, 10**9, rtt_ms=20)
    matched = prefilter(book_of(*made), Terms(shape(), SETTLEMENT, LIMIT, 60_000), {made[3].seller: met}, NOW)
    buyer = Buyer(GATEWAY, NETWORK, SETTLEMENT, Prefer.PRICE, 60_000, waits)
    one = Auction(buyer, matched, NONCE)
    asked = rfqs(one.start(random.Random(1), 0))
    assert set(asked) == {made[3].seller}
    after = one.refused(made[3].seller, 10)
    assert bool(rfqs(after)) != waits
    if waits:
        assert told(after) is Code.BUSY


@pytest.mark.parametrize(
    ("waits", "rtt_ms", "until"),
    [(True, 20, PATIENT_WINDOW_MS), (False, 20, LONGEST_WINDOW_MS), (True, None, LONGEST_WINDOW_MS)],
)
def test_a_bid_that_waits_is_patient_with_the_last_who_is_there(waits: bool, rtt_ms: int | None, until: int) -> None:
    [made] = sellers(1)
    met = View(False, False, False, False, 800_000, {}, 0, None, 10**9, rtt_ms=rtt_ms)
    matched = prefilter(book_of(made), Terms(shape(), SETTLEMENT, LIMIT, 60_000), {made.seller: met}, NOW)
    one = Auction(Buyer(GATEWAY, NETWORK, SETTLEMENT, Prefer.PRICE, 60_000, waits), matched, NONCE)
    one.start(random.Random(1), 0)
    last, commands = 0, list[Command]()
    while one.wake_at is not None:
        last = one.wake_at
        commands = one.tick(last)
    assert last == until
    assert commands[0] == NoteSilence(made.seller)
    assert told(commands) is Code.BUSY


def test_a_bid_that_waits_asks_no_strangers_while_who_is_there_is_busy_for_a_moment() -> None:
    made = sellers(3)
    busy = View(False, False, True, False, 800_000, {}, 0, None, 10**9, rtt_ms=20)
    for rtt_ms, asked in ((20, 0), (None, 2)):
        views = {made[2].seller: replace(busy, rtt_ms=rtt_ms)}
        matched = prefilter(book_of(*made), Terms(shape(), SETTLEMENT, LIMIT, 60_000), views, NOW)
        assert (matched.waiting, matched.soon) == (1, rtt_ms is not None)
        one = Auction(Buyer(GATEWAY, NETWORK, SETTLEMENT, Prefer.PRICE, 60_000, True), matched, NONCE)
        assert len(rfqs(one.start(random.Random(1), 0))) == asked


def test_sellers_that_failed_before_are_left_out() -> None:
    made = sellers(2)
    matched = prefilter(book_of(*made), Terms(shape(), SETTLEMENT, LIMIT, 60_000), {}, NOW)
    buyer = Buyer(GATEWAY, NETWORK, SETTLEMENT, Prefer.PRICE, 60_000)
    one = Auction(buyer, matched, NONCE, without=iter([made[0].seller]))
    asked = rfqs(one.start(random.Random(1), 0))
    assert set(asked) == {made[1].seller}
    assert told(Auction(buyer, matched, NONCE, without=[o.seller for o in made]).start(random.Random(1), 0))


def test_cancelled_it_lets_go_of_every_place() -> None:
    made = sellers(3)
    one = auction(*made)
    asked = rfqs(one.start(random.Random(1), 0))
    one.quoted(made[0].seller, quote(asked[made[0].seller], made[0]), UNSIGNED, 5)
    assert one.cancel() == [ReleaseQuote(made[0].seller, asked[made[0].seller].digest)]
    assert one.cancel() == []
    assert one.tick(10**9) == []


@given(st.integers(1, 9), st.integers(0, 2**32), st.sampled_from(Prefer))
def test_no_day_of_an_auction_breaks_its_promises(count: int, seed: int, prefer: Prefer) -> None:
    """Sellers quote anything at all, in any order, twice, late; awards are declined, lost, or never answered."""
    chance = random.Random(seed)
    made = {o.seller: o for o in (offer(stranger(n), price=chance.randrange(1, 8) * 10**6) for n in range(count))}
    one = auction(*made.values(), prefer=prefer, deadline=chance.choice([100, 3000, 60_000]))
    now, asked, open_award, ended = 0, {}, None, []
    sent: set[PeerId] = set()
    released: set[PeerId] = set()
    commands = one.start(chance, 0)
    for _ in range(60):
        for command in commands:
            match command:
                case Ask(seller, rfq):
                    assert seller not in asked, "nobody is asked twice"
                    asked[seller] = rfq
                case AwardTo(quote=won):
                    assert open_award is None
                    assert won.seller not in sent, "nobody is awarded twice"
                    assert won.price <= min(LIMIT, made[won.seller].price_of(shape()))
                    open_award = won.seller
                    sent.add(won.seller)
                case ReleaseQuote(seller, _):
                    released.add(seller)
                case GiveUp():
                    ended.append(command)
                    open_award = None
        now += chance.choice([0, 1, 40, 300])
        commands = step(one, chance, made, asked, now)
        if any(isinstance(c, NoteRefusal) and c.seller == open_award for c in commands):
            open_award = None
    assert len(ended) <= 1
    if one.phase is Phase.DONE:
        assert (one.winner is None) == bool(ended)
        assert one.winner is None or one.winner.seller not in released
    else:
        assert one.wake_at is not None
        for _ in range(20):
            if one.wake_at is not None:
                one.tick(one.wake_at)
        assert one.phase is Phase.DONE, "left alone, it comes to an end"


def step(
    one: Auction, chance: random.Random, made: dict[PeerId, Offer], asked: dict[PeerId, RFQ], now: int
) -> list[Command]:
    if not asked:
        return one.tick(now)
    seller = chance.choice(sorted(asked))
    match chance.randrange(7):
        case 0 | 1 | 2:
            price = chance.choice([made[seller].price_of(shape()), chance.randrange(2 * LIMIT)])
            hold = chance.choice([0, 700, 1300])
            finish, serial = chance.choice([10, 5000, 70_000]), chance.choice([0, 1, 2])
            taken = hold > 0 and chance.randrange(3) == 0
            said = quote(
                asked[seller],
                made[seller],
                price=price,
                hold_ms=hold,
                finish_by_ms=finish,
                offer_serial=serial,
                taken=taken,
            )
            return one.quoted(seller, said, UNSIGNED, now)
        case 3:
            return one.refused(seller, now)
        case 4:
            return one.declined(seller, now) if chance.randrange(2) else one.lost(seller, now)
        case 5:
            return one.accepted(seller) if chance.randrange(4) == 0 else []
        case _:
            return one.tick(now)
