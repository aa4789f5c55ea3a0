"""Aftermath: what a purchase changes in what the gateway thinks of its seller, each thing counted once.

Reputation lives in memory. Standing lives in the journal, and is changed in the same transaction that marks the
session as counted, so that a restart at any line neither forgets a fault nor counts it again. Knows no stream.
"""

from __future__ import annotations

import structlog
import trio

from ledger.journal import Also
from market import jobwire as wire
from market.basket import EXCUSED, Basket, Bought
from market.conversation import now_ms
from market.pace import Pace
from market.quote import Quote
from market.session import commands
from market.sessionstore import Counted
from p2p.codec import decode_as
from p2p.peer import PeerId, address_of, peer_text
from p2p.scores import Fault

log = structlog.get_logger(__name__)


class Aftermath:
    """Of one attempt. ``counted`` is what an earlier life of this process has counted of it."""

    def __init__(self, basket: Basket, seller: PeerId, award: wire.Award, counted: Counted, pace: Pace) -> None:
        self._b, self._seller, self._award, self._counted, self._pace = basket, seller, award, counted, pace
        self._recipient = address_of(seller)
        self._begun = now_ms()
        self._counting = trio.Lock()  # a fault of a stream and one of the machine may come together

    async def fault(self, code: str, proof: bytes) -> None:
        """The seller broke a rule: once in the books for one attempt, however many rules."""
        log.warning("fault of the seller", seller=peer_text(self._seller)[-8:], code=code, proof=bool(proof))
        async with self._counting:
            if Counted.FAULT in self._counted:
                return
            self._counted |= Counted.FAULT
            self._b.reputation.fault(self._seller, now_ms(), proof=bool(proof))
            await self._b.books.record_fault(self._recipient, self._mark(Counted.FAULT))

    async def close(self, end: commands.Close, bought: Bought | None, late_ms: int, *, accepted: bool) -> None:
        """The attempt is over. ``bought``: what was delivered, ``late_ms`` late; ``accepted``: the award was taken."""
        async with self._counting:
            if Counted.CLOSE in self._counted:
                return
            self._counted |= Counted.CLOSE
            mark, books = self._mark(Counted.CLOSE), self._b.books
            self._measure(end, bought, late_ms, accepted=accepted)
            if bought is not None:
                await books.record_delivered(self._recipient, mark)
            elif self._pace.stalled or (end.code == wire.LOST and accepted):
                await books.record_fault(self._recipient, mark)
            else:
                await self._b.store.count(mark)

    def _measure(self, end: commands.Close, bought: Bought | None, late_ms: int, *, accepted: bool) -> None:
        seller, now, reputation, shape = self._seller, now_ms(), self._b.reputation, self._award.spec.shape
        if bought is not None:
            self._b.measured(seller)
            times = bought.inside.times
            run_ms = self._pace.run_ms(times.run_ms, times.queued_ms if self._quote.queue else 0)
            reputation.delivered(seller, now, model=shape.model, units=shape.units, run_ms=run_ms, late_ms=late_ms)
        elif end.refusal is not None:
            reputation.refused(seller, now)
            if end.refusal.code == wire.BUSY and self._quote.hold_ms:
                self._b.report(seller, Fault.REFUSED_FIRM)
        elif self._pace.stalled or end.code in (wire.LOST, wire.SILENT) or (accepted and end.code not in EXCUSED):
            # What a lost one was paid stays as credit with it, and never is the customer's. Its exposure falls; it is
            # not banned: it may be all there is, and back soon.
            reputation.failed(seller, now, awarded=self._begun)
            if reputation.view(seller, now).banned:
                log.warning("a seller is set aside", seller=peer_text(seller)[-8:], code=end.code)

    @property
    def _quote(self) -> Quote:
        return decode_as(Quote, self._award.quote.payload)

    def _mark(self, what: Counted) -> Also:
        return self._b.store.mark(self._seller, self._award.job_id, self._award.attempt, what)
