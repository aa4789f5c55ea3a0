"""The Session of one attempt at one job: two pure machines, their events, their commands.

    machine = Buying.of(award) | Selling()          one per (counterpart, job id, attempt)
    for command in machine.handle(event, now): ...  carry out, in order, nothing else
    machine.wake_at                                 when to hand in Ticked
    machine.snapshot(now), Machine.restore(data, now, away_ms), then Restarted, and Connected with a new stream

Messages of the job stream are events as they are, once ``market.jobwire.authenticate`` has passed them. What a shell
must keep to is in ``commands.py``; the whole tables are in ``docs/session.md``. Knows no network, ledger or worker.
"""

from __future__ import annotations

from market.session import commands, events
from market.session.buying import Buying
from market.session.money import first_due, late_price, payment_id, reservation, slices_for
from market.session.records import BuyingRecord, BuyingState, SellingRecord, SellingState
from market.session.selling import Selling

__all__ = [
    "Buying",
    "BuyingRecord",
    "BuyingState",
    "Selling",
    "SellingRecord",
    "SellingState",
    "commands",
    "events",
    "first_due",
    "late_price",
    "payment_id",
    "reservation",
    "slices_for",
]
