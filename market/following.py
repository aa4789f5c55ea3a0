"""Following: whose Loads a gateway asks for: the best by score, some newcomers, few of one place, steadily.

    shelves of the book -> ranked, per model -> choose -> at most CAP sellers of a pipeline

Ranked for a typical job of each model, because there is no bid yet. Newcomers get places of their own, drawn by a hash
that only this gateway can compute, so that nobody can make a key that is drawn. Pure; knows no stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import blake2b
from heapq import merge
from itertools import islice, zip_longest

from compute.spec import DENOISED, MAX_DENOISED_SIDE, MIN_SIDE, SIDE_STEP, JobShape
from ledger.money import Settlement, price_for
from market.bid import time_price
from market.book import Ask, OrderBook, Posting, Profile
from market.loads import CAP
from market.prefilter import default_limit
from market.scoring import UNKNOWN, View, finish_ms, predicted_ms, score
from p2p.peer import PeerId

NEWCOMERS = 8  # of CAP
SLACK = 16  # ranks that a followed seller may fall beyond the last place before it loses its own
PER_PLACE = 4  # of one payout address or subnet
LOOKED_AT = 512  # sellers of one model
MODELS = 16  # of one pipeline
TYPICAL_STEPS, TYPICAL_DEADLINE_MS = 20, 60_000
TYPICAL_LENGTH = 5000  # frames or milliseconds


@dataclass(frozen=True, slots=True)
class Prospect:
    """A seller that may be worth following. ``places``: its payout address, and its subnet where that is known."""

    seller: PeerId
    newcomer: bool
    places: tuple[bytes, ...]


def ranked(
    book: OrderBook,
    pipeline: str,
    settlement: Settlement,
    model: bytes,
    views: Mapping[PeerId, View],
    without: Container[PeerId] = (),
) -> list[Prospect]:
    """Sellers of one model, the best for a typical job first; nobody of ``without``.

    ``views``: those this gateway met, of any model.
    """
    shelves = {profile: shelf for profile, shelf in book.shelves(pipeline, settlement, model).items() if shelf}
    if not shelves:
        return []
    shape = _typical(book, pipeline, model, next(iter(shelves.values()))[0])
    cheapest = price_for(shape.units, min(shelf[0][0] for shelf in shelves.values()))
    time_wei = time_price(default_limit(cheapest), TYPICAL_DEADLINE_MS)
    strangers = merge(*(_shelf(shape.units, profile, shelf, time_wei, views) for profile, shelf in shelves.items()))
    free = ((worth, seller) for worth, seller in strangers if seller not in without)
    scored = [*islice(free, LOOKED_AT), *_met(book, shape, settlement, time_wei, views)]
    found = []
    for _, seller in sorted(scored)[:LOOKED_AT]:
        posting = book.posting(seller, pipeline)
        if posting is not None and seller not in without:
            found.append(Prospect(seller, views.get(seller, UNKNOWN).newcomer, _places(posting)))
    return found


def choose(
    rankings: Sequence[Sequence[Prospect]],
    followed: Set[PeerId],
    salt: bytes,
    cap: int = CAP,
    newcomers: int = NEWCOMERS,
    slack: int = SLACK,
) -> tuple[PeerId, ...]:
    """Whom to follow: at most ``cap``, of which ``newcomers`` places are drawn among newcomers.

    Whoever is among the first ``cap - newcomers - slack`` is always in. Below, those followed already go first, down
    to ``slack`` ranks past the last place: a seller that moves a little is neither dropped nor taken up.
    """
    order = _spread(_interleaved(rankings))
    fresh = sorted((one for one in order if one.newcomer), key=lambda one: _draw(salt, one.seller))[:newcomers]
    drawn = {one.seller for one in fresh}
    rest = [one.seller for one in order if one.seller not in drawn]
    room = cap - len(fresh)
    sure = max(0, room - slack)
    edge = rest[sure : room + slack]
    edge.sort(key=lambda seller: seller not in followed)  # stable: by rank within each half
    return (*rest[:sure], *edge[: room - min(sure, len(rest))], *(one.seller for one in fresh))


def models(book: OrderBook, pipeline: str, settlement: Settlement, wanted: Iterable[bytes]) -> list[bytes]:
    """The models worth following: those asked for lately first, then those that most sellers offer."""
    asked = [model for model in wanted if book.shelves(pipeline, settlement, model)]
    others = sorted(
        (model for model in book.models(pipeline, settlement) if model not in asked),
        key=lambda model: (-sum(map(len, book.shelves(pipeline, settlement, model).values())), model),
    )
    return [*asked, *others][:MODELS]


def _typical(book: OrderBook, pipeline: str, model: bytes, ask: Ask) -> JobShape:
    posting = book.posting(ask[1], pipeline)
    entry = posting.offer.entry(model) if posting is not None else None
    assert entry is not None  # a shelf holds live offers of its model alone
    if pipeline not in DENOISED:
        return JobShape(pipeline, model, entry.native_side, entry.native_side, 1, guided=False, length=TYPICAL_LENGTH)
    side = min(max(MIN_SIDE, -(-entry.native_side // SIDE_STEP) * SIDE_STEP), MAX_DENOISED_SIDE)
    return JobShape(pipeline, model, side, side, TYPICAL_STEPS, guided=True)


def _shelf(
    units: int, profile: Profile, shelf: list[Ask], time_wei: int, views: Mapping[PeerId, View]
) -> Iterator[tuple[int, PeerId]]:
    """Those nobody here met, best first: on one shelf the cheapest is the best."""
    finish = finish_ms(units, profile.speed, profile.load_ms, 0)
    waited = TYPICAL_DEADLINE_MS if finish is None else finish
    for price, seller in shelf:
        if seller not in views:
            yield score(price_for(units, price), time_wei, waited, UNKNOWN.delivered_ppm), seller


def _met(
    book: OrderBook, shape: JobShape, settlement: Settlement, time_wei: int, views: Mapping[PeerId, View]
) -> Iterator[tuple[int, PeerId]]:
    for seller, view in views.items():
        posting = book.posting(seller, shape.pipeline)
        entry = posting.offer.entry(shape.model) if posting is not None else None
        if posting is None or entry is None or view.banned or posting.offer.settlement != settlement:
            continue
        finish = predicted_ms(shape, entry, view, 0 if entry.warm else entry.load_ms)
        waited = TYPICAL_DEADLINE_MS if finish is None else finish
        yield score(posting.offer.price_of(shape), time_wei, waited, view.delivered_ppm), seller


def _places(posting: Posting) -> tuple[bytes, ...]:
    payout = bytes(posting.offer.payout)
    return (payout,) if posting.subnet is None else (payout, posting.subnet)


def _interleaved(rankings: Sequence[Sequence[Prospect]]) -> Iterator[Prospect]:
    """The first of each ranking, then the second of each; everybody once."""
    seen: set[PeerId] = set()
    for row in zip_longest(*rankings):
        for one in row:
            if one is not None and one.seller not in seen:
                seen.add(one.seller)
                yield one


def _spread(prospects: Iterable[Prospect]) -> list[Prospect]:
    """All but those whose payout address or subnet has its share already."""
    taken: Counter[bytes] = Counter()
    kept = []
    for one in prospects:
        if all(taken[place] < PER_PLACE for place in one.places):
            taken.update(one.places)
            kept.append(one)
    return kept


def _draw(salt: bytes, seller: PeerId) -> bytes:
    return blake2b(seller, key=salt, digest_size=16).digest()
