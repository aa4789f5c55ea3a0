"""Basket: what all purchases of one gateway share, and what a purchase comes to.

Values and references only; ``market/purchase.py`` acts. Knows no auction and no client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from compute.spec import Artifact
from ledger.sending import SendingBooks
from ledger.ticket import TicketParams
from market import jobwire as wire
from market.hello import Greeter
from market.keeping import Keeping
from market.readystreams import ReadyStreams
from market.receipt import Receipt
from market.reputation import Reputation
from market.sessionstore import SessionStore
from p2p.envelope import Signer
from p2p.peer import PeerId
from p2p.scores import Fault

# Codes under which the seller is asked for fresh TicketParams, and the same payment is made again.
BROKEN = "BROKEN"  # how an attempt ends when our own side gives way: a disk, a bug
ASK_AFRESH = {
    *("PARAMS_EXPIRED", "PARAMS_DROPPED", "PARAMS_NOT_MINE"),
    *("NONCE_EXHAUSTED", "BATCH_TOO_LARGE", "TICKET_TOO_LARGE"),
}
# Ends after an acceptance that are not the seller's doing: our client's, our own money's, or a lawful no.
EXCUSED = {
    *(wire.CANCELLED, wire.UNCOVERED, wire.POLICY, wire.BAD_INPUT),
    *("EXPOSURE", "SENDER_UNFUNDED", "SENDER_UNLOCKING"),
}


@dataclass(frozen=True, slots=True)
class Basket:
    """What all purchases of one gateway share. ``small_job`` is in units."""

    signer: Signer
    greeter: Greeter
    streams: ReadyStreams
    books: SendingBooks
    reputation: Reputation
    store: SessionStore
    keeping: Keeping
    rtts: Callable[[PeerId], int]
    small_job: int
    terms: dict[PeerId, tuple[float, TicketParams]] = field(default_factory=dict)
    reached: Callable[[str], None] = lambda point: None  # told at points that a restart must survive
    measured: Callable[[PeerId], None] = lambda peer: None  # told of a seller that delivered
    report: Callable[[PeerId, Fault], None] = lambda peer, fault: None  # what a seller did wrong as a peer


@dataclass(frozen=True, slots=True)
class Bought:
    """A result that is here, opened, checked; ``receipt`` is countersigned. ``paid`` is what tickets were credited."""

    files: tuple[Artifact, ...]
    receipt: bytes
    inside: Receipt
    price: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How the attempt was closed. ``cost`` is what was earned by the seller, ``paid`` what it credited in all."""

    code: str
    hint: str = ""
    cost: int = 0
    paid: int = 0
