"""Bid: a job, the most it pays, by when; and the bids that rest until somebody has a place.

``RestingBids`` keeps them by price per unit, then by turns of their clients. Pure: knows no book and no auction.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Annotated

from compute.spec import JobSpec
from ledger.money import MILLION, Amount
from market.refusal import Code, Refusal, simple
from p2p.codec import Range, Size, message
from p2p.peer import PeerId, keccak256

MAX_DEADLINE_MS = 24 * 3600 * 1000
RESTING_PER_CLIENT = 32
MAX_RESTING = 10_000
AT_ONCE, LONGEST = 4, 2  # resting bids that look for a place at the same time: the best, and who did not look longest


class Prefer(StrEnum):
    """Where the candidates come from: three at random of the best eight scores, or the three cheapest."""

    SPEED = "speed"
    PRICE = "price"


@message("bid", 2)
@dataclass(frozen=True, slots=True)
class Bid:
    """What a client asks of its gateway. ``limit`` 0 is none given; durations run from the bid's arrival.

    ``price_of_time`` is wei per second of waiting; it only scores and never leaves the gateway. ``wait``: rest in the
    book when nobody has a place. The nonce is the client's own: the same one again is the same job.
    """

    nonce: Annotated[bytes, Size(16, 16)]
    spec: JobSpec
    limit: Amount
    deadline_ms: Annotated[int, Range(1, MAX_DEADLINE_MS)]
    price_of_time: Amount | None = None
    prefer: Prefer = Prefer.SPEED
    wait: bool = False


def job_id(gateway: PeerId, client: PeerId, nonce: bytes) -> bytes:
    """The 32 bytes that name a job: the same client and nonce at the same gateway are the same job."""
    if len(gateway) != 39 or len(client) != 39 or len(nonce) != 16:
        raise ValueError("a job id is made of two peer ids and 16 bytes")
    return keccak256(b"pasar/job-id/1\0" + gateway + client + nonce)


def time_price(limit: int, deadline_ms: int) -> int:
    """The price of time where the client gave none: a tenth of the limit over the whole deadline, in wei per second."""
    return limit * 1000 // (10 * deadline_ms)


@dataclass(frozen=True, slots=True)
class Resting:
    """One bid that waits, ``since`` it came. ``turn``: how many of its client's waited when it lay down to wait."""

    job: bytes
    client: PeerId
    bid: Bid
    limit: int
    since: int
    turn: int

    @property
    def until(self) -> int:
        """When its deadline ends."""
        return self.since + self.bid.deadline_ms

    @property
    def rank(self) -> tuple[int, int, int]:
        """The best paid per unit first; of equals one of each client, then the next of each; then who came first."""
        return -(self.limit * MILLION // self.bid.spec.shape.units), self.turn, self.since


class RestingBids:
    """Bids without a place, best first; at most 32 of one client, none past its deadline.

    Whoever looked in vain and rests again is the last of ``_by_job``, wherever it stands in ``_order``.
    """

    def __init__(self, per_client: int = RESTING_PER_CLIENT, capacity: int = MAX_RESTING) -> None:
        self.per_client, self.capacity = per_client, capacity
        self._by_job: dict[bytes, Resting] = {}
        self._order: list[tuple[int, int, int, bytes]] = []
        self._of_client: dict[PeerId, int] = {}

    def __len__(self) -> int:
        return len(self._by_job)

    def add(self, job: bytes, client: PeerId, bid: Bid, limit: int, since: int) -> Refusal | None:
        """Let a bid rest that came at ``since``; None when it does (also when it already did).

        ``limit`` is the one that holds for it. A bid that found no place and rests again has come no later for that.
        """
        if job in self._by_job:
            return None
        turn = self._of_client.get(client, 0)
        if turn >= self.per_client:
            return simple(Code.TOO_MANY, f"{self.per_client} bids of yours wait already", limit_wei=bid.limit)
        if len(self._by_job) >= self.capacity:
            return simple(Code.BUSY, "too many bids wait here: try another gateway", limit_wei=bid.limit)
        entry = Resting(job, client, bid, limit, since, turn)
        self._by_job[job] = entry
        insort(self._order, (*entry.rank, job))
        self._of_client[client] = turn + 1
        return None

    def remove(self, job: bytes) -> Resting | None:
        """Take one out: it found a place, or was cancelled."""
        entry = self._by_job.pop(job, None)
        if entry is None:
            return None
        del self._order[bisect_left(self._order, (*entry.rank, job))]
        self._of_client[entry.client] -= 1
        if not self._of_client[entry.client]:
            del self._of_client[entry.client]
        return entry

    def expire(self, now: int) -> tuple[Resting, ...]:
        """Take out what is past its deadline."""
        over = [entry.job for entry in self._by_job.values() if entry.until <= now]
        return tuple(entry for job in over if (entry := self.remove(job)) is not None)

    def up(self) -> frozenset[bytes]:
        """The jobs whose turn it is to look for a place: the best, and those whose last look is longest ago.

        For the best there may never be a seller, and for whoever waits behind them there may be one.
        """
        best = (job for *_, job in self._order[:AT_ONCE])
        return frozenset((*best, *islice(self._by_job, LONGEST)))

    def best(self) -> tuple[Resting, ...]:
        """All that wait, best first: whoever has a place serves the first that it fits."""
        return tuple(self._by_job[job] for *_, job in self._order)
