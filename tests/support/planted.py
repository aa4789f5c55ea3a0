"""Faults that are planted to see them found: each changes one named place of the market, as a careless hand might.

A simulation that does not find these would not find the next real one either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from ledger.customers import CustomerBooks
from ledger.recipient_rows import RecipientRows
from ledger.sending import SendingBooks
from market.auction import Auction
from market.conversation import Conversation, now_ms
from market.job import Job
from market.jobstore import JobStore
from market.purchase import Purchase
from market.quote import Quoting
from market.reputation import Reputation
from market.sale import Sale
from market.session import Buying, SellingState
from market.session.buyer import Buyer
from market.session.commands import Debit
from market.session.events import Ticked
from market.session.seller import Seller

Plant = Callable[[pytest.MonkeyPatch], None]


def a_journal_write_dropped(patch: pytest.MonkeyPatch) -> None:
    """What a payment was credited is not written down beside the credit."""
    patch.setattr(RecipientRows, "put_verdict", lambda self, sender, payment_id, row, now_ms: None)


def a_key_sent_twice(patch: pytest.MonkeyPatch) -> None:
    real = Seller._deliver
    patch.setattr(Seller, "_deliver", lambda self: [*real(self), *real(self)])


def a_hold_never_released(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quoting, "expire", lambda self, now: None)


def a_verdict_ignored(patch: pytest.MonkeyPatch) -> None:
    async def deaf(self: Purchase, payment_id: bytes, data: bytes) -> None:
        """It came, and nothing follows from it."""

    patch.setattr(Purchase, "_settle", deaf)


def a_payment_signed_anew_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    """A restarted attempt forgets the bytes it had signed; its books, which would know them, do not look."""
    restore, pay = Buying.restore, SendingBooks._pay

    def forgetful(data: bytes, now: int, away_ms: int = 0) -> Buying:
        session = restore(data, now, away_ms)
        lines = (line if line.settled else replace(line, payment=b"") for line in session.record.payments)
        session._set(payments=tuple(lines))
        return session

    def anew(self: SendingBooks, tx: Any, ask: Any) -> Any:
        tx.db.execute("DELETE FROM payments_out WHERE payment_id = ? AND state = 'signed'", (ask.payment_id,))
        return pay(self, tx, ask)

    patch.setattr(Buying, "restore", forgetful)
    patch.setattr(SendingBooks, "_pay", anew)


def a_delivery_charged_twice(patch: pytest.MonkeyPatch) -> None:
    real = Job.charge.fget  # type: ignore[attr-defined]
    patch.setattr(Job, "charge", property(lambda self: min(2 * real(self), self.limit)))


def a_quote_above_its_offer_accepted(patch: pytest.MonkeyPatch) -> None:
    """Nobody compares a quote with the offer it stands on."""

    def affordable(self: Auction, candidate: Any, quote: Any, now: int) -> bool:
        return now + quote.finish_by_ms <= self.buyer.deadline

    patch.setattr(Auction, "_wrong", lambda self, candidate, rfq, quote: None)
    patch.setattr(Auction, "_affordable", affordable)


def a_closed_attempt_paid(patch: pytest.MonkeyPatch) -> None:
    """What was committed counts as spent, whether anything was delivered or not."""
    real = Buyer._end

    def end(self: Buyer, code: str, **more: Any) -> list[Any]:
        self._set(debited=max(self.record.debited, self.committed))
        return [Debit(self.record.debited), *real(self, code, **more)]

    patch.setattr(Buyer, "_end", end)


def a_reservation_never_returned(patch: pytest.MonkeyPatch) -> None:
    async def keep(self: CustomerBooks, job_id: bytes) -> None:
        """The customer's money stays where it is."""

    patch.setattr(CustomerBooks, "give_back", keep)


def a_place_never_given_back(patch: pytest.MonkeyPatch) -> None:
    """A sale that is over still counts as work."""
    real = Sale.in_work.fget  # type: ignore[attr-defined]
    patch.setattr(Sale, "in_work", property(lambda self: real(self) or self.session.state is SellingState.CLOSED))


def a_key_given_before_it_is_paid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seller, "spare", property(lambda self: 10**18))


def a_deadline_forgotten(patch: pytest.MonkeyPatch) -> None:
    """An attempt that nobody works on is never given up."""
    real = Buyer._deadlines
    patch.setattr(Buyer, "_deadlines", lambda self: {c: at for c, at in real(self).items() if c != "DEADLINE"})


def a_busy_seller_counted_as_faulty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reputation, "refused", Reputation.fault)


def a_cancel_booked_for_less_than_it_cost(patch: pytest.MonkeyPatch) -> None:
    """Credit from before does not count towards what a cancel costs."""
    patch.setattr(Buying, "_rested", 0)


def a_deadline_ahead_of_what_came_before_it(patch: pytest.MonkeyPatch) -> None:
    """A restarted attempt whose time is over closes before it has heard that it was restarted, and closes again."""

    async def hasty(self: Conversation) -> Any:
        wake_at = self.session.wake_at
        if wake_at is not None and wake_at <= now_ms():
            await trio.sleep(0.05)
        with trio.move_on_at(math.inf if wake_at is None else wake_at / 1000):
            return await self._events.receive()
        return Ticked()

    patch.setattr(Conversation, "_next", hasty)


def a_bid_not_dropped(patch: pytest.MonkeyPatch) -> None:
    """A finished job begins again after a restart."""

    async def keep(self: JobStore, job_id: bytes) -> None:
        """The row stays."""

    patch.setattr(JobStore, "drop", keep)


PLANTED: tuple[Plant, ...] = (
    a_journal_write_dropped,
    a_key_sent_twice,
    a_hold_never_released,
    a_verdict_ignored,
    a_payment_signed_anew_after_a_restart,
    a_delivery_charged_twice,
    a_quote_above_its_offer_accepted,
    a_closed_attempt_paid,
    a_reservation_never_returned,
    a_place_never_given_back,
    a_key_given_before_it_is_paid,
    a_deadline_forgotten,
    a_busy_seller_counted_as_faulty,
    a_cancel_booked_for_less_than_it_cost,
    a_deadline_ahead_of_what_came_before_it,
    a_bid_not_dropped,
)
