"""Auction: one bid's way from candidates to an accepted award, as a value machine: calls with ``now``, commands out.

    ASKING --all answered, or the window is over--> AWARDING --accepted--> DONE
       ^                                               | declined: the next quote
       +------ nobody left, others not yet asked ------+ none left at all: DONE, with a Refusal

It asks up to three drawn sellers at once and chooses by score among signed quotes; the price is the one quoted. Losers
are released when the award is accepted. A quote above the limit or above the seller's own offer never wins, and the
latter is a fault. With a single candidate the request for a quote names a price at which the seller may take the job at
once. Pure: ``now`` is milliseconds of a steady clock, chance an argument; signatures are checked by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from ledger.money import Settlement
from market.bid import Prefer
from market.offer import Offer
from market.prefilter import MAX_ROUNDS, Matched
from market.quote import MAX_HOLD_MS, RFQ, Quote
from market.refusal import Code, Refusal, listed
from market.scoring import ASKED, Candidate, Chance, draw, score
from p2p.envelope import Signed
from p2p.peer import PeerId

SHORTEST_WINDOW_MS = 200
LONGEST_WINDOW_MS = 800
PATIENT_WINDOW_MS = 3000  # of a bid that waits, where nobody else who is there is left to ask
HOLD_BEYOND_MS = 500
UNKNOWN_RTT_MS = 400
AWARD_ANSWER_MS = 5000


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this RFQ to the seller; answer with ``quoted``, ``refused`` or ``lost``."""

    seller: PeerId
    rfq: RFQ


@dataclass(frozen=True, slots=True)
class AwardTo:
    """Award the job at this quote; answer with ``accepted`` or ``declined``. ``envelope`` is the quote as signed.

    ``asked_at`` is when its RFQ was decided on: a hold begins no earlier.
    """

    offer: Offer
    quote: Quote
    envelope: Signed
    asked_at: int = field(default=0, compare=False)

    @property
    def seller(self) -> PeerId:
        return self.offer.seller


@dataclass(frozen=True, slots=True)
class ReleaseQuote:
    """Tell the seller that its quote is not taken."""

    seller: PeerId
    rfq: bytes


@dataclass(frozen=True, slots=True)
class NoteRefusal:
    """Remember that this seller had no place."""

    seller: PeerId


@dataclass(frozen=True, slots=True)
class NoteSilence:
    """Remember that no answer came from this seller in time; ``lost``: it cannot even be reached."""

    seller: PeerId
    lost: bool = False


@dataclass(frozen=True, slots=True)
class NoteFault:
    """The seller broke a rule; ``proof`` is what it signed, where that alone shows it."""

    seller: PeerId
    reason: str
    proof: Signed | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody takes the job."""

    refusal: Refusal


Command = Ask | AwardTo | ReleaseQuote | NoteRefusal | NoteSilence | NoteFault | GiveUp


class Phase(Enum):
    ASKING = auto()
    AWARDING = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who asks: what every RFQ of this auction says of the gateway, when the bid's time is over, and if it ``waits``.

    One that waits for a place is not spent on sellers nobody met while somebody who is there may have a place soon.
    """

    gateway: PeerId
    network: str
    settlement: Settlement
    prefer: Prefer
    deadline: int
    waits: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    candidate: Candidate
    quote: Quote
    envelope: Signed
    until: int
    score: int

    @property
    def rank(self) -> tuple[int, int, bytes]:
        return self.score, self.quote.price, self.candidate.seller


class Auction:
    """One auction. Every call may come late or twice; what it no longer needs it releases or drops.

    Nobody is asked twice, one award is open at a time, and after DONE it only releases. Call ``tick`` at ``wake_at``.
    """

    def __init__(self, buyer: Buyer, matched: Matched, nonce: bytes, *, without: Iterable[PeerId] = ()) -> None:
        self.buyer, self.matched, self.nonce = buyer, matched, nonce
        self.phase = Phase.ASKING
        self.wake_at: int | None = None
        self.winner: AwardTo | None = None
        barred = set(without)
        self._left = [one for one in matched.candidates if one.seller not in barred]
        self._met = matched.soon > 0 or any(one.rtt_ms is not None for one in self._left)
        self._asked: dict[PeerId, tuple[Candidate, RFQ]] = {}
        self._asked_when: dict[PeerId, int] = {}
        self._waiting: set[PeerId] = set()
        self._answers: dict[PeerId, _Answer] = {}
        self._tried: set[PeerId] = set()
        self._rounds = 0

    def start(self, chance: Chance, now: int) -> list[Command]:
        """Draw and ask; a Refusal at once where nobody can be asked."""
        if self._rounds:
            raise ValueError("started twice")
        self._chance = chance
        return self._round(now)

    def quoted(self, seller: PeerId, quote: Quote, envelope: Signed, now: int) -> list[Command]:
        """A quote arrived, its signature checked to be ``seller``'s."""
        if seller not in self._asked or quote.rfq != self._asked[seller][1].digest or seller in self._answers:
            return []
        if seller in self._tried:
            return [ReleaseQuote(seller, quote.rfq)]
        candidate, rfq = self._asked[seller]
        self._waiting.discard(seller)
        wrong = self._wrong(candidate, rfq, quote)
        if wrong is not None:
            self._tried.add(seller)
            return [NoteFault(seller, wrong, envelope), *self._settle(now)]
        if self.phase is Phase.DONE or not self._affordable(candidate, quote, now):
            self._tried.add(seller)
            return [ReleaseQuote(seller, quote.rfq), *self._settle(now)]
        until = now + (quote.hold_ms or MAX_HOLD_MS)
        self._answers[seller] = _Answer(candidate, quote, envelope, until, self._score(candidate, quote))
        if quote.taken and self.phase is Phase.ASKING:
            return self._award(self._answers[seller], now)
        return self._settle(now)

    def refused(self, seller: PeerId, now: int) -> list[Command]:
        """The seller declined to quote."""
        if seller not in self._waiting:
            return []
        self._waiting.discard(seller)
        self._tried.add(seller)
        return [NoteRefusal(seller), *self._settle(now)]

    def lost(self, seller: PeerId, now: int) -> list[Command]:
        """The seller cannot be reached; also for one that holds the award."""
        if self.winner is not None and self.winner.seller == seller and self.phase is Phase.AWARDING:
            return self.declined(seller, now)
        if seller not in self._waiting:
            return []
        self._waiting.discard(seller)
        self._tried.add(seller)
        return [NoteSilence(seller, lost=True), *self._settle(now)]

    def accepted(self, seller: PeerId) -> list[Command]:
        """The award is accepted: everybody else is released."""
        if self.phase is not Phase.AWARDING or self.winner is None or self.winner.seller != seller:
            return []
        return self._done()

    def declined(self, seller: PeerId, now: int) -> list[Command]:
        """The award was refused or not answered: on to the next quote."""
        if self.phase is not Phase.AWARDING or self.winner is None or self.winner.seller != seller:
            return []
        self.winner = None
        return [NoteRefusal(seller), *self._next(now)]

    def cancel(self) -> list[Command]:
        """The bid was taken back before an award was accepted. The caller cancels an award that is on its way."""
        return [] if self.phase is Phase.DONE else self._done()

    def tick(self, now: int) -> list[Command]:
        """Time passed. Harmless when nothing is due."""
        if self.phase is Phase.DONE or self.wake_at is None or now < self.wake_at:
            return []
        if now >= self.buyer.deadline:
            return self._give_up(Code.DEADLINE, "the time of this bid is over: allow more")
        if self.phase is Phase.AWARDING:
            assert self.winner is not None
            return self.declined(self.winner.seller, now)
        if self._standing(now):
            return self._next(now)
        if self._waiting and now < (until := self._asked_at + self._longest_window()):
            self.wake_at = min(until, self.buyer.deadline)
            return []
        silent, self._waiting = sorted(self._waiting), set()  # a quote of theirs may still come, and counts then
        return [*(NoteSilence(seller) for seller in silent), *self._next(now)]

    def _longest_window(self) -> int:
        """How long a round may last: a seller that is slow now is better than none, for whoever has the time."""
        there = any(self._asked[seller][0].rtt_ms is not None for seller in self._waiting)
        others = any(one.rtt_ms is not None for one in self._left)
        return PATIENT_WINDOW_MS if self.buyer.waits and there and not others else LONGEST_WINDOW_MS

    def _round(self, now: int) -> list[Command]:
        over = self._rounds == MAX_ROUNDS
        prefer, strangers = self.buyer.prefer, not (self.buyer.waits and self._met)
        drawn = [] if over else draw(self._left, prefer, self._chance, ASKED, strangers=strangers)
        if not drawn:
            return self._give_up(None, "")
        single = len(self._left) == 1 and not self._rounds
        self._rounds += 1
        names = {one.seller for one in drawn}
        self._left = [one for one in self._left if one.seller not in names]
        slowest = max(UNKNOWN_RTT_MS if one.rtt_ms is None else one.rtt_ms for one in drawn)
        window = min(LONGEST_WINDOW_MS, max(SHORTEST_WINDOW_MS, 2 * slowest))
        self.phase, self._asked_at = Phase.ASKING, now
        self.wake_at = min(now + window, self.buyer.deadline)
        commands: list[Command] = []
        for one in drawn:
            rfq = self._rfq(one, window, single)
            self._asked[one.seller], self._asked_when[one.seller] = (one, rfq), now
            self._waiting.add(one.seller)
            commands.append(Ask(one.seller, rfq))
        return commands

    def _rfq(self, one: Candidate, window: int, single: bool) -> RFQ:
        shape = self.matched.terms.shape
        hold = min(MAX_HOLD_MS, window + HOLD_BEYOND_MS)
        nonce, buyer = self.nonce, self.buyer
        return RFQ(nonce, buyer.network, buyer.settlement, shape, hold, one.price if single else 0)

    def _wrong(self, candidate: Candidate, rfq: RFQ, quote: Quote) -> str | None:
        """What makes a signed quote a fault: it contradicts the RFQ that it names, or the seller's own offer."""
        if quote.seller != candidate.seller or quote.gateway != self.buyer.gateway:
            return "quote of or for somebody else"
        if quote.network != rfq.network or quote.settlement != rfq.settlement:
            return "quote of another network or settlement"
        if quote.taken and not 0 < quote.price <= rfq.take_at:
            return "taken above the price it may be taken at"
        if quote.price > candidate.price and quote.offer_serial <= candidate.posting.offer.serial:
            return "quote above its own offer"
        return None

    def _affordable(self, candidate: Candidate, quote: Quote, now: int) -> bool:
        """No award above the limit, above the offer we know (a newer, dearer one is no fault), or past the deadline."""
        limit = self.matched.terms.limit
        dear = quote.price > candidate.price or (limit is not None and quote.price > limit)
        return not dear and now + quote.finish_by_ms <= self.buyer.deadline

    def _score(self, candidate: Candidate, quote: Quote) -> int:
        delivered = candidate.delivered_ppm
        return score(quote.price, self.matched.terms.time_wei, quote.finish_by_ms + candidate.late_ms, delivered)

    def _settle(self, now: int) -> list[Command]:
        """After an answer: choose when nobody is waited for any more."""
        return self._next(now) if self.phase is Phase.ASKING and not self._waiting else []

    def _next(self, now: int) -> list[Command]:
        """Award the best quote that still stands; without one, ask others."""
        if now >= self.buyer.deadline:
            return self._give_up(Code.DEADLINE, "the time of this bid is over: allow more")
        standing = self._standing(now)
        return self._award(min(standing, key=lambda answer: answer.rank), now) if standing else self._round(now)

    def _standing(self, now: int) -> list[_Answer]:
        """Quotes not tried yet whose time is not over."""
        return [
            answer
            for seller, answer in self._answers.items()
            if seller not in self._tried
            and now < answer.until
            and self._affordable(answer.candidate, answer.quote, now)
        ]

    def _award(self, answer: _Answer, now: int) -> list[Command]:
        self._tried.add(answer.candidate.seller)
        offer = answer.candidate.posting.offer
        self.winner = AwardTo(offer, answer.quote, answer.envelope, self._asked_when[offer.seller])
        self.phase, self.wake_at = Phase.AWARDING, min(now + AWARD_ANSWER_MS, self.buyer.deadline)
        return [self.winner]

    def _done(self) -> list[Command]:
        """Close, and let go of every place kept for us but the winner's."""
        self.phase, self.wake_at = Phase.DONE, None
        won = None if self.winner is None else self.winner.seller
        return [ReleaseQuote(one, answer.quote.rfq) for one, answer in self._answers.items() if one != won]

    def _give_up(self, code: Code | None, hint: str) -> list[Command]:
        self.winner = None
        released = self._done()
        matched, plain = self.matched, self.matched.refusal()
        if matched.candidates and code is None:
            code, hint = (
                Code.BUSY,
                f"none of the {len(self._asked)} sellers asked had a place: let the bid wait, or try again",
            )
        limit, cheapest = matched.terms.limit or 0, matched.cheapest or 0
        told = Refusal(code or plain.code, matched.known, listed(matched.excluded), cheapest, limit, hint or plain.hint)
        return [*released, GiveUp(told)]
