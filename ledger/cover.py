"""Cover: what stands behind a sender's tickets on chain, as the ledger asks for it.

``CoverSource`` is the seam: the chain client answers it from what it last saw, ``MemoryCover`` from a dict. It is read
without waiting and may be old; ``known_at_ms`` says how old. Knows no ticket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from p2p.peer import Address, keccak256


@dataclass(frozen=True, slots=True)
class Cover:
    """A sender's funds in the broker as of ``known_at_ms`` (calendar). ``withdraw_round`` is 0 unless it unlocks."""

    deposit: int
    reserve: int
    withdraw_round: int = 0
    known_at_ms: int = 0

    @property
    def total(self) -> int:
        return self.deposit + self.reserve


NO_COVER = Cover(0, 0)


@dataclass(frozen=True, slots=True)
class Round:
    """The round that new tickets are bound to. A ticket is redeemable in ``validity`` rounds, its own included."""

    number: int
    block_hash: bytes
    validity: int = 2


class CoverSource(Protocol):
    """Answers at once, from memory. An unknown sender has ``NO_COVER``; no round yet is None."""

    def deposit_of(self, sender: Address) -> Cover: ...
    def round_now(self) -> Round | None: ...


@dataclass
class MemoryCover:
    """A chain that is a dict, for simulations."""

    covers: dict[Address, Cover] = field(default_factory=dict)
    round: Round | None = field(default_factory=lambda: Round(1, keccak256(b"round 1")))

    def deposit_of(self, sender: Address) -> Cover:
        return self.covers.get(sender, NO_COVER)

    def round_now(self) -> Round | None:
        return self.round


def redeemable_beyond(cover: Cover, round_: Round) -> bool:
    """Whether the sender's funds are still locked in the next round: else no new credit."""
    return cover.withdraw_round == 0 or cover.withdraw_round > round_.number + 1
