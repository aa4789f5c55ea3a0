"""Shop: what all sales of one orchestrator share, and what they ask of it. Knows no single sale."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from compute.work import Machine
from ledger.money import Settlement
from ledger.receiving import ReceivingBooks
from market.keeping import Keeping
from market.policy import EVERYTHING, Policy
from market.quotedesk import QuoteDesk
from market.sessionstore import SessionStore
from p2p.envelope import Signer
from p2p.peer import Address


@dataclass(frozen=True, slots=True)
class Shop:
    """What all sales of one orchestrator share. ``small_job`` is in units, ``settlement`` our own."""

    signer: Signer
    network: str
    settlement: Settlement
    books: ReceivingBooks
    machine: Machine
    desk: QuoteDesk
    store: SessionStore
    keeping: Keeping
    small_job: int
    development: bool
    wall_time: Callable[[], float]
    spare: Callable[[Address, tuple[bytes, int]], int]  # a gateway's credit that no other sale than the named one holds
    owed: Callable[[Address, tuple[bytes, int]], int]  # units that its other sales have in work, or not paid
    look_up: Callable[[Address], Awaitable[object]]  # learn a gateway's cover before tickets of it are asked for
    policy: Policy = EVERYTHING
    reached: Callable[[str], None] = lambda point: None  # told at points that a restart must survive
