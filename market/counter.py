"""Counter: what all job runs of one gateway share. Holds parts, does nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ledger.customers import CustomerBooks
from ledger.money import Settlement
from market.auctioneer import Auctioneer
from market.basket import Basket
from market.bid import RestingBids
from market.bookfeed import BookFeed
from market.jobstore import JobStore
from market.keeping import Keeping
from market.purchase import Purchase
from p2p.peer import PeerId


@dataclass(frozen=True, slots=True)
class Counter:
    """What all job runs of one gateway share.

    ``exposures``: what each known seller may owe us, in wei; ``newcomer_room(limit, units)``: what all newcomers
    together may still owe us while a job of so many units may cost so much.
    """

    feed: BookFeed
    auctioneer: Auctioneer
    basket: Basket
    customers: CustomerBooks
    jobs: JobStore
    results: Keeping
    resting: RestingBids
    settlement: Settlement
    chance: Callable[[int], bytes]
    exposures: Callable[[], dict[PeerId, int]]
    newcomer_room: Callable[[int, int], int]
    rtts: Callable[[], dict[PeerId, int]]
    start: Callable[[Purchase], Awaitable[None]]
