"""Scoring: what one seller's offer is worth for one job, in integer wei, and the draw of whom to ask.

    score = price + price of time x predicted finish + price x (1 - delivered share)

"The cheapest known offer" herds: every gateway runs to the same seller. So the draw takes three at random of the
best eight, the likelier the nearer to the best, one of each subnet and payout address, and now and then keeps a place
for a newcomer. Pure: chance is an
argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from compute.spec import JobShape
from market.bid import Prefer
from market.book import Posting, claimed_speed
from market.offer import Load, ModelOffer
from p2p.peer import PeerId

MILLION = 10**6
PRIOR_PPM = 800_000  # delivered share of somebody never measured
BAND = 8
ASKED = 3
NEWCOMER_PERCENT = 5
STEEP = 4  # of the best's chance to be drawn, a score a tenth above has two thirds, one half above a fifth


class Chance(Protocol):
    """Where chance comes from; ``random.Random`` is one."""

    def randrange(self, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class View:
    """What this gateway knows of one seller first-hand. The default is a seller that nobody here ever met.

    ``speeds``: measured units per second by model. ``exposure_wei``: the most it may owe us, None for one small job.
    """

    newcomer: bool = True
    banned: bool = False
    refused_lately: bool = False
    unreachable: bool = False
    delivered_ppm: int = PRIOR_PPM
    speeds: Mapping[bytes, int] = field(default_factory=dict)
    late_ms: int = 0
    load: Load | None = None
    exposure_wei: int | None = None
    rtt_ms: int | None = None


UNKNOWN = View()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that passed every rule, with its price and score for one job. ``finish_ms`` None: nothing is known."""

    posting: Posting
    price: int
    finish_ms: int | None
    score: int
    newcomer: bool
    delivered_ppm: int
    late_ms: int
    rtt_ms: int | None
    full: bool = False  # its Load says that it has no place now

    @property
    def seller(self) -> PeerId:
        return self.posting.offer.seller


def finish_ms(units: int, speed: int, load_ms: int, queue_ms: int) -> int | None:
    """Milliseconds to the end of a job of ``units``, rounded up; None when no speed is known."""
    return queue_ms + load_ms - (-units * 1000 // speed) if speed else None


def predicted_ms(shape: JobShape, entry: ModelOffer, view: View, load_ms: int) -> int | None:
    """Queue, loading when cold, and the measured speed of this peer and model; its claim where none was measured."""
    queue = view.load.queue_ms if view.load is not None else 0
    warm = view.load is not None and entry.model in view.load.warm
    speed = view.speeds.get(entry.model, 0) or claimed_speed(entry.speed)
    finish = finish_ms(shape.units, speed, 0 if warm else load_ms, queue)
    return None if finish is None else finish + view.late_ms


def score(price: int, price_of_time: int, finish: int, delivered_ppm: int) -> int:
    """Integer wei, rounded up. ``price_of_time`` in wei per second, ``finish`` in milliseconds."""
    return price - (-price_of_time * finish // 1000) - (-price * (MILLION - delivered_ppm) // MILLION)


def distinct(candidates: Iterable[Candidate], most: int) -> list[Candidate]:
    """The first ``most``, one of each subnet and of each payout address. An unknown subnet is nobody's neighbour."""
    taken: list[Candidate] = []
    subnets: set[bytes] = set()
    payouts: set[bytes] = set()
    for candidate in candidates:
        subnet, payout = candidate.posting.subnet, candidate.posting.offer.payout
        if subnet in subnets or payout in payouts:
            continue
        payouts.add(payout)
        if subnet is not None:
            subnets.add(subnet)
        taken.append(candidate)
        if len(taken) == most:
            break
    return taken


def draw(
    candidates: Sequence[Candidate], prefer: Prefer, chance: Chance, asked: int = ASKED, *, strangers: bool = True
) -> list[Candidate]:
    """Whom to ask, at most ``asked``, best first. In one auction of twenty one place is a newcomer's.

    Whoever says that it is full is asked only when nobody else is left. Where anybody is connected, or has answered
    before, strangers are asked in that one auction of twenty alone: an offer costs nothing, and a book full of sellers
    that are not there would take every place with low prices. Without ``strangers`` that holds where nobody is left
    who is there, too, and nobody may be drawn.
    """
    everybody = sorted(candidates, key=lambda one: (one.score, one.seller))
    by_score = everybody if strangers else [one for one in everybody if one.rtt_ms is not None]
    by_score = [one for one in by_score if not one.full] or by_score
    kept = _newcomer(everybody, chance) if chance.randrange(100) < NEWCOMER_PERCENT else []
    by_score = [one for one in by_score if one.rtt_ms is not None] or by_score
    if prefer is Prefer.PRICE:
        pool = sorted(by_score, key=lambda one: (one.price, one.score, one.seller))
    else:
        pool = _shuffled(distinct(by_score, BAND), chance)
    drawn = distinct(pool, asked)
    if kept and not any(one.newcomer for one in drawn):
        drawn = distinct([*kept, *drawn], asked)
    return sorted(drawn, key=lambda one: (one.score, one.seller))


def _newcomer(by_score: Sequence[Candidate], chance: Chance) -> list[Candidate]:
    pool = distinct((one for one in by_score if one.newcomer and not one.full), BAND)
    return [pool[chance.randrange(len(pool))]] if pool else []


def _shuffled(pool: list[Candidate], chance: Chance) -> list[Candidate]:
    """``pool``, which comes best first, in an order of chance in which those near the best tend to come early."""
    left, order = list(pool), list[Candidate]()
    while left:
        weights = [_weight(pool[0].score, one.score) for one in left]
        drawn = chance.randrange(sum(weights))
        order.append(left.pop(next(n for n, below in enumerate(accumulate(weights)) if drawn < below)))
    return order


def _weight(best: int, score: int) -> int:
    """How likely a seller of this score is drawn beside the best: equals are equal, far ones are rare."""
    return max(1, 1000 * (best + 1) // (score + 1)) ** STEEP
