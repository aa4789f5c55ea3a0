"""Bid: a job, the most it pays, by when; and the bids that rest until somebody has a place.

``RestingBids`` keeps them by price per unit, then arrival. Pure: knows no book and no auction.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from compute.spec import JobSpec
from ledger.money import MILLION, Amount
from market.refusal import Code, Refusal, simple
from p2p.codec import Range, Size, message
from p2p.peer import PeerId, keccak256

MAX_DEADLINE_MS = 24 * 3600 * 1000
RESTING_PER_CLIENT = 32
MAX_RESTING = 10_000


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
    """One bid that waits. ``until`` is when its deadline ends; ``arrival`` grows by one with each bid."""

    job: bytes
    client: PeerId
    bid: Bid
    limit: int
    until: int
    arrival: int

    @property
    def rank(self) -> tuple[int, int]:
        """The best paid per unit first; of equals, who came first."""
        return -(self.limit * MILLION // self.bid.spec.shape.units), self.arrival


class RestingBids:
    """Bids without a place, best first; at most 32 of one client, none past its deadline."""

    def __init__(self, per_client: int = RESTING_PER_CLIENT, capacity: int = MAX_RESTING) -> None:
        self.per_client, self.capacity = per_client, capacity
        self._by_job: dict[bytes, Resting] = {}
        self._order: list[tuple[int, int, bytes]] = []
        self._of_client: dict[PeerId, int] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._by_job)

    def add(self, job: bytes, client: PeerId, bid: Bid, limit: int, now: int) -> Refusal | None:
        """Let a bid rest; None when it does (also when it already did). ``limit`` is the one that holds for it."""
        if job in self._by_job:
            return None
        if self._of_client.get(client, 0) >= self.per_client:
            return simple(Code.TOO_MANY, f"{self.per_client} bids of yours wait already", limit_wei=bid.limit)
        if len(self._by_job) >= self.capacity:
            return simple(Code.BUSY, "too many bids wait here: try another gateway", limit_wei=bid.limit)
        self._arrivals += 1
        entry = Resting(job, client, bid, limit, now + bid.deadline_ms, self._arrivals)
        self._by_job[job] = entry
        insort(self._order, (*entry.rank, job))
        self._of_client[client] = self._of_client.get(client, 0) + 1
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

    def best(self) -> tuple[Resting, ...]:
        """All that wait, best first: whoever has a place serves the first that it fits."""
        return tuple(self._by_job[job] for _, _, job in self._order)
