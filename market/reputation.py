"""Reputation: what one gateway measured of each seller itself. Never taken from claims, and it decays.

Shares are in parts per million and start from a prior of 0.8 on five jobs. Faults ban, twice as long each time.
Failures in a row set a seller aside in the same way, from a shorter time on: a price near nothing would else win every
auction, whatever becomes of the jobs, and an honest seller that was cut off is soon tried again.
Pure: ``now`` is milliseconds of a steady clock; knows no offer and no price.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice

from market.offer import MAX_SPEED, Load
from market.scoring import PRIOR_PPM, View
from p2p.peer import PeerId

MILLION = 10**6
PRIOR_JOBS = 5
NEWCOMER_JOBS = 5  # whoever has fewer measured jobs is a newcomer
REFUSED_MS = 2000
REFUSALS_BELIEVED = 5  # Loads in a row that said free and were followed by a refusal: no Load clears one any more
SILENCES = 6  # in a row, and a seller counts as unreachable: one whose host only stalls has answered before
LOST_COUNTS = 3  # silences; who cannot be dialled twice is unreachable
UNREACHABLE_MS = 10_000  # at most until it is tried again: it may be back under a new offer
HALF_LIFE_MS = 7 * 24 * 3600 * 1000
BAN_MS = 10 * 60 * 1000
MAX_BAN_MS = 24 * 3600 * 1000
FAILURES_BAN = 3  # awards in a row that came to nothing, and the seller is set aside; each one more, twice as long
SET_ASIDE_MS = 30_000
MAX_SELLERS = 20_000
MAX_STRANGERS = 1024  # of them, those that never had a job and broke no rule: most are names in offers of nobody
MAX_MODELS_MEASURED = 64
_SCALE = 1024  # decayed counts are kept in parts of a job


@dataclass(slots=True)
class Record:
    """One seller. ``jobs`` and ``delivered`` decay by half in a week; ``measured`` counts jobs and only grows."""

    jobs: int = 0
    delivered: int = 0
    measured: int = 0
    faults: int = 0
    late_ms: int = 0
    halved_at: int = 0
    banned_until: int = 0
    refused_until: int = 0
    silent_until: int = 0
    failed_in_row: int = 0
    failed_at: int | None = None
    silences: int = 0
    free: bool = False  # its Load said so, and nobody has asked since
    contradicted: int = 0  # Loads in a row that said so, and the first answer was a refusal
    speeds: OrderedDict[bytes, int] | None = None  # most records are of sellers that nobody ever reached

    @property
    def newcomer(self) -> bool:
        return self.measured < NEWCOMER_JOBS

    @property
    def delivered_ppm(self) -> int:
        """Delivered share in parts per million, rounded down, the prior counted in."""
        weight = PRIOR_JOBS * _SCALE
        return (PRIOR_PPM * weight + MILLION * self.delivered) // (weight + self.jobs)

    def decay(self, now: int) -> None:
        while now - self.halved_at >= HALF_LIFE_MS:
            self.jobs, self.delivered = self.jobs // 2, self.delivered // 2
            self.faults = max(0, self.faults - 1)
            self.halved_at = now if not self.jobs and not self.faults else self.halved_at + HALF_LIFE_MS


class Reputation:
    """At most ``capacity`` sellers; the one untouched for longest is forgotten first, a banned one last."""

    def __init__(self, capacity: int = MAX_SELLERS) -> None:
        self.capacity = capacity
        self._records: OrderedDict[PeerId, Record] = OrderedDict()
        self._strangers: OrderedDict[PeerId, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def delivered(
        self, seller: PeerId, now: int, *, model: bytes = b"", units: int = 0, run_ms: int = 0, late_ms: int = 0
    ) -> None:
        """A result whose digest checked. ``run_ms`` is the time of the work itself, without queue and transfer."""
        record = self._touch(seller, now, stranger=False)
        record.jobs += _SCALE
        record.delivered += _SCALE
        record.measured += 1
        record.failed_in_row = 0
        record.refused_until = 0  # the job's place is free, and a job may be shorter than a Load takes to come
        record.late_ms += (max(0, late_ms) - record.late_ms) // 4
        if units and run_ms > 0:
            fresh = min(MAX_SPEED, units * 1000 // run_ms)
            speeds = record.speeds = record.speeds or OrderedDict()
            known = speeds.pop(model, fresh)
            speeds[model] = max(1, known + (fresh - known) // 4)
            if len(speeds) > MAX_MODELS_MEASURED:
                speeds.popitem(last=False)

    def failed(self, seller: PeerId, now: int, *, awarded: int | None = None) -> None:
        """An award that came to nothing: not delivered, or past its time. Three in a row set a seller aside.

        For half a minute, and for twice as long with each further one, a day at most, until it delivers. What was
        ``awarded`` before the last failure was known is not one more in the row: one stall of an honest seller, or of
        the way to it, ends every award that is under way.
        """
        record = self._touch(seller, now, stranger=False)
        record.jobs += _SCALE
        record.measured += 1
        if awarded is not None and record.failed_at is not None and awarded < record.failed_at:
            return
        record.failed_at = now
        record.failed_in_row += 1
        if (more := record.failed_in_row - FAILURES_BAN) >= 0:
            record.banned_until = max(record.banned_until, now + min(MAX_BAN_MS, SET_ASIDE_MS << min(more, 16)))

    def fault(self, seller: PeerId, now: int, *, proof: bool = False) -> None:
        """A rule broken, which bans: ten minutes, doubled with each fault, a day at most, and at once with proof."""
        record = self._touch(seller, now, stranger=False)
        record.jobs += _SCALE
        record.faults += 1
        doubled = BAN_MS << min(record.faults - 1, 16)
        ban = MAX_BAN_MS if proof else min(MAX_BAN_MS, doubled)
        record.banned_until = max(record.banned_until, now + ban)

    def caught(self, seller: PeerId, now: int) -> None:
        """It did not do the work that it was paid for, and that was proved: nothing that it delivered counts any more.

        One draw finds a false step among many that are true, so what it costs must be more than what the others saved:
        it is banned as with proof, and what comes after that begins as a newcomer, below the prior.
        """
        self.fault(seller, now, proof=True)
        record = self._touch(seller, now)
        record.delivered, record.measured = 0, 0

    def refused(self, seller: PeerId, now: int) -> None:
        """It had no place; no fault. It is not asked again for two seconds, or until a newer Load."""
        record = self._touch(seller, now)
        record.refused_until = now + REFUSED_MS
        record.contradicted += record.free
        record.free = False  # of several bids that asked it at once, one may have got the place

    def quoted(self, seller: PeerId) -> None:
        """It had a place, as it said."""
        record = self._records.get(seller)
        if record is not None:
            record.contradicted, record.free = 0, False

    def unanswered(self, seller: PeerId, now: int, *, lost: bool = False) -> None:
        """No answer; no fault. Set aside until one comes, longer each time once it counts as unreachable."""
        record = self._touch(seller, now)
        if now < record.silent_until:
            return  # of several auctions that asked it at once, the first has said so
        record.silences += LOST_COUNTS if lost else 1
        times = max(0, record.silences - SILENCES + LOST_COUNTS) // LOST_COUNTS
        record.silent_until = now + min(UNREACHABLE_MS, REFUSED_MS << min(times, 8))

    def answered(self, seller: PeerId) -> None:
        """It answered, whatever it said, and however late."""
        record = self._records.get(seller)
        if record is not None:
            record.silences = record.silent_until = 0

    def load_arrived(self, seller: PeerId) -> None:
        """A newer Load with a free place says more than an old refusal; not of one whose Loads say so in vain."""
        record = self._records.get(seller)
        if record is None:
            return
        record.free = True
        if record.contradicted < REFUSALS_BELIEVED:
            record.refused_until = 0

    def of(self, seller: PeerId, now: int) -> Record:
        """What is known of a seller now; a fresh record for a stranger, not kept."""
        record = self._records.get(seller)
        if record is None:
            return Record(halved_at=now)
        record.decay(now)
        return record

    def view(
        self,
        seller: PeerId,
        now: int,
        *,
        load: Load | None = None,
        exposure_wei: int | None = None,
        rtt_ms: int | None = None,
    ) -> View:
        """The seller as an auction sees it: this measure, joined with what others of our parts know of it."""
        record = self.of(seller, now)
        return View(
            newcomer=record.newcomer,
            banned=now < record.banned_until,
            refused_lately=now < max(record.refused_until, record.silent_until),
            unreachable=now < record.silent_until and record.silences >= SILENCES,
            delivered_ppm=record.delivered_ppm,
            speeds=dict(record.speeds or ()),
            late_ms=record.late_ms,
            load=load,
            exposure_wei=exposure_wei,
            rtt_ms=rtt_ms,
        )

    def views(
        self,
        now: int,
        *,
        loads: Mapping[PeerId, Load] | None = None,
        exposures: Mapping[PeerId, int] | None = None,
        rtts: Mapping[PeerId, int] | None = None,
    ) -> Views:
        """Every seller about whom anything is known, for the prefilter. Made to be used at once, not kept."""
        return Views(self, now, loads or {}, exposures or {}, rtts or {})

    def recent(self, most: int) -> list[PeerId]:
        """Sellers with a record, those we dealt with last first."""
        return list(islice(reversed(self._records), most))

    def sellers(self) -> Set[PeerId]:
        """Everybody with a record."""
        return self._records.keys()

    def _touch(self, seller: PeerId, now: int, *, stranger: bool = True) -> Record:
        record = self._records.get(seller)
        if record is None:
            if len(self._records) >= self.capacity:
                self._forget(now)
            record = self._records[seller] = Record(halved_at=now)
            self._strangers[seller] = None
        self._records.move_to_end(seller)
        if not stranger:
            self._strangers.pop(seller, None)
        elif seller in self._strangers:
            self._strangers.move_to_end(seller)
            if len(self._strangers) > MAX_STRANGERS:
                del self._records[self._strangers.popitem(last=False)[0]]
        record.decay(now)
        return record

    def _forget(self, now: int) -> None:
        free = (peer for peer, record in self._records.items() if record.banned_until <= now)
        gone = next(free, next(iter(self._records)))
        del self._records[gone]
        self._strangers.pop(gone, None)


class Views(Mapping[PeerId, View]):
    """A View per known seller, built when it is looked at: an auction looks at those who offer its model alone."""

    def __init__(
        self,
        reputation: Reputation,
        now: int,
        loads: Mapping[PeerId, Load],
        exposures: Mapping[PeerId, int],
        rtts: Mapping[PeerId, int],
    ) -> None:
        self._reputation, self._now = reputation, now
        self._loads, self._exposures, self._rtts = loads, exposures, rtts
        self._known = {*reputation.sellers(), *loads, *exposures, *rtts}
        self._seen: dict[PeerId, View] = {}  # a bid without a limit is matched twice

    def __getitem__(self, seller: PeerId) -> View:
        if seller not in self._known:
            raise KeyError(seller)
        view = self._seen.get(seller)
        if view is None:
            view = self._seen[seller] = self._look(seller)
        return view

    def _look(self, seller: PeerId) -> View:
        return self._reputation.view(
            seller,
            self._now,
            load=self._loads.get(seller),
            exposure_wei=self._exposures.get(seller),
            rtt_ms=self._rtts.get(seller),
        )

    def __contains__(self, seller: object) -> bool:
        return seller in self._known

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
