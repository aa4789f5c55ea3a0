"""Auctioneer: carries one auction out over the control lines. The rules are in ``market/auction.py``.

Questions go out together and answers are handed in as they come; the award itself is the caller's, who says whether it
was accepted. Losers are released when the auction is over, and whoever quoted may be asked again soon: ``prepare``
hears of them. Knows no job stream and no payment.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog
import trio

from market.auction import (
    Ask,
    Auction,
    AwardTo,
    Command,
    GiveUp,
    NoteFault,
    NoteRefusal,
    NoteSilence,
    ReleaseQuote,
)
from market.controls import ControlLines, Quoted
from market.conversation import now_ms
from market.quote import RFQ
from market.refusal import Refusal
from market.reputation import Reputation
from market.scoring import Chance
from p2p.errors import PasarError, PeerFault
from p2p.peer import PeerId, peer_text

log = structlog.get_logger(__name__)

GiveAward = Callable[[AwardTo], Awaitable[bool]]
TakeBack = Callable[[], Awaitable[None]]
TellQuote = Callable[[PeerId, int], None]


@dataclass(frozen=True, slots=True)
class _Answered:
    seller: PeerId
    answer: Quoted | None  # None: declined, or an answer that is a fault
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _Decided:
    seller: PeerId
    accepted: bool


class Auctioneer:
    """One auction at a time for each call; many calls may run together."""

    def __init__(
        self,
        lines: ControlLines,
        reputation: Reputation,
        chance: Chance,
        prepare: Callable[[PeerId], None] = lambda seller: None,
    ) -> None:
        self._lines, self._reputation, self._chance, self._prepare = lines, reputation, chance, prepare

    async def hold(
        self, auction: Auction, award: GiveAward, take_back: TakeBack, quoted: TellQuote
    ) -> AwardTo | Refusal:
        """Run ``auction`` to its end: the accepted award, or why there is none.

        ``award`` gives the job to a seller and says whether it was taken; when that lasts too long it is cancelled
        and ``take_back`` called, before the next one is given the job. ``quoted`` hears of each quote.
        """
        quoters: list[PeerId] = []

        def heard(seller: PeerId, price: int) -> None:
            quoters.append(seller)
            quoted(seller, price)

        outcome = await _Round(self._lines, self._reputation, auction, award, take_back, heard).run(self._chance)
        for seller in quoters:
            self._prepare(seller)
        return outcome


class _Round:
    """The state of one call of ``hold``."""

    def __init__(
        self,
        lines: ControlLines,
        reputation: Reputation,
        auction: Auction,
        award: GiveAward,
        take_back: TakeBack,
        quoted: TellQuote,
    ) -> None:
        self._lines, self._reputation, self._auction = lines, reputation, auction
        self._award, self._take_back, self._quoted = award, take_back, quoted
        self._post, self._events = trio.open_memory_channel[_Answered | _Decided](math.inf)
        self._outcome: AwardTo | Refusal | None = None
        self._giving: trio.CancelScope | None = None

    async def run(self, chance: Chance) -> AwardTo | Refusal:
        try:
            async with trio.open_nursery() as self._nursery:
                await self._carry_out(self._auction.start(chance, now_ms()))
                while self._outcome is None:
                    await self._carry_out(await self._next())
                self._nursery.cancel_scope.cancel()
        finally:
            self._let_go()
        return self._outcome

    def _let_go(self) -> None:
        """Of every place that is still kept for us: when cancelled, and of quotes that came as the last word fell."""
        winner = self._auction.winner
        if self._outcome is None and winner is not None:  # nothing to a seller that took the award after all
            self._lines.let_go(winner.seller, winner.quote.rfq)
        for command in self._auction.cancel():
            if isinstance(command, ReleaseQuote):
                self._lines.let_go(command.seller, command.rfq)
        with suppress(trio.WouldBlock):
            while True:
                event = self._events.receive_nowait()
                if isinstance(event, _Answered) and event.answer is not None:
                    self._lines.let_go(event.seller, event.answer.quote.rfq)

    async def _next(self) -> list[Command]:
        """Hand in whatever comes first: an answer, a decision, or time."""
        wake_at = self._auction.wake_at
        with trio.move_on_at(math.inf if wake_at is None else wake_at / 1000) as waiting:
            event = await self._events.receive()
        if waiting.cancelled_caught and self._giving is not None:
            self._giving.cancel()  # nobody answers: the award is taken back before another one leaves
            event = await self._events.receive()
        elif waiting.cancelled_caught:
            return self._auction.tick(now_ms())
        return self._heard(event)

    def _heard(self, event: _Answered | _Decided) -> list[Command]:
        match event:
            case _Decided(seller=seller, accepted=True):
                self._outcome = self._auction.winner
                return self._auction.accepted(seller)
            case _Decided(seller=seller):
                return self._auction.declined(seller, now_ms())
            case _Answered(seller=seller, answer=Quoted() as answer):
                self._quoted(seller, answer.quote.price)
                self._reputation.quoted(seller)
                return self._auction.quoted(seller, answer.quote, answer.envelope, now_ms())
            case _Answered(seller=seller, lost=lost):
                return self._auction.lost(seller, now_ms()) if lost else self._auction.refused(seller, now_ms())

    async def _carry_out(self, todo: list[Command]) -> None:
        for command in todo:
            match command:
                case Ask(seller=seller, rfq=rfq):
                    self._nursery.start_soon(self._ask, seller, rfq)
                case AwardTo():
                    self._nursery.start_soon(self._give, command)
                case ReleaseQuote(seller=seller, rfq=rfq_digest):
                    await self._lines.release(seller, rfq_digest)
                case NoteRefusal(seller=seller):
                    self._reputation.refused(seller, now_ms())
                case NoteSilence(seller=seller, lost=lost):
                    self._reputation.unanswered(seller, now_ms(), lost=lost)
                case NoteFault(seller=seller, reason=reason, proof=proof):
                    log.warning("a fault in a quote", seller=peer_text(seller), reason=reason)
                    self._reputation.fault(seller, now_ms(), proof=proof is not None)
                case GiveUp(refusal=refusal):
                    self._outcome = refusal

    async def _ask(self, seller: PeerId, rfq: RFQ) -> None:
        try:
            answer = await self._lines.ask(seller, rfq)
            self._post.send_nowait(_Answered(seller, answer if isinstance(answer, Quoted) else None))
        except PeerFault as fault:
            log.warning("no quote", seller=peer_text(seller), code=fault.code)
            self._reputation.fault(seller, now_ms())
            self._post.send_nowait(_Answered(seller, None))
        except PasarError as exc:
            log.debug("seller not reached", seller=peer_text(seller), reason=str(exc))
            self._post.send_nowait(_Answered(seller, None, lost=True))

    async def _give(self, award: AwardTo) -> None:
        accepted = False
        with trio.CancelScope() as self._giving:
            accepted = await self._award(award)
        if self._giving.cancelled_caught:
            await self._take_back()
        self._giving = None
        self._post.send_nowait(_Decided(award.seller, accepted))
