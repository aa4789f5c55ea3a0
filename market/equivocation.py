"""Equivocation: two different offers that one seller signed under one serial, and what makes the pair a proof.

Both signatures are the seller's own, so that the pair convinces whoever never met it and nobody can be framed. Pure:
who is told, and what it costs, is the keeper's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from market.offer import Offer
from p2p.codec import U64, Size, message
from p2p.envelope import Signed, open_signed
from p2p.errors import PeerFault
from p2p.peer import PeerId

MAX_PROOFS = 256


@message("equivocation", 1)
@dataclass(frozen=True, slots=True)
class Equivocation:
    """The two offers in their envelopes, as they were gossiped."""

    one: Signed
    other: Signed


@message("kept-proof", 1)
@dataclass(frozen=True, slots=True)
class KeptProof:
    """A proof on our own disk. ``seen_at`` is calendar time in seconds."""

    proof: Equivocation
    seen_at: U64


@message("kept-proofs", 1)
@dataclass(frozen=True, slots=True)
class KeptProofs:
    """The whole file."""

    proofs: Annotated[tuple[KeptProof, ...], Size(0, MAX_PROOFS)]


def culprit(proof: Equivocation, network: str) -> PeerId:
    """The seller that the pair convicts. Raises PeerFault when it convicts nobody of this network, UnknownMessage."""
    (one, signer), (other, second) = open_signed(proof.one, Offer), open_signed(proof.other, Offer)
    if signer != second or one.seller != signer or other.seller != signer:
        raise PeerFault("two offers of two signers")
    named = [(offer.network, offer.pipeline, offer.serial) for offer in (one, other)]
    if named[0] != named[1] or one == other or one.network != network:
        raise PeerFault("two offers that go together")
    return signer


def which_goes(kept: dict[PeerId, int], measured: set[PeerId]) -> PeerId:
    """Of more proofs than are kept, whose goes: the oldest about somebody nobody dealt with, else the oldest."""
    strangers = {seller: at for seller, at in kept.items() if seller not in measured}
    pool = strangers or kept
    return min(pool, key=lambda seller: (pool[seller], seller))
