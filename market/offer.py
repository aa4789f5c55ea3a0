"""Offer and Load: what an orchestrator says of itself, for hours and for this moment.

An Offer is gossiped inside ``p2p.envelope.Signed``; one covers all models of a pipeline and a higher ``serial``
supersedes it. A Load goes over a stream to the gateways that asked for it. Both are claims: they prove nothing until a
job was measured. This module knows no book and no buyer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from compute.spec import MAX_STEPS, InputSize, JobShape, Length, Quality, Side, Verification
from ledger.money import Amount, Settlement, price_for
from market.refusal import Rule
from p2p.codec import U32, U64, Hash, Name, Range, Size, message
from p2p.peer import WireAddress, WirePeer

MAX_OFFER = 4096  # bytes, envelope included
MAX_MODELS = 24  # so that the longest offer stays below MAX_OFFER
MAX_SPEED = 2**48  # units per second
INTERVALS = 3  # an offer is valid for so many refresh intervals

NetworkName = Annotated[str, Size(1, 32)]
Dtype = Annotated[str, Size(1, 16)]
Speed = Annotated[int, Range(0, MAX_SPEED)]
Pipeline = Annotated[str, Size(1, 64)]
_STRENGTH = {Verification.NONE: 0, Verification.RECEIPT: 1, Verification.TRACE: 2}


class Limits(NamedTuple):
    """The most that one model takes: pixels of a side, steps, frames or milliseconds, bytes of input."""

    side: int
    steps: int
    length: int
    input: int

    def hold(self, shape: JobShape) -> bool:
        """Whether a job of this shape stays within them."""
        asked = max(shape.width, shape.height), shape.steps, shape.length, shape.input_bytes
        return all(one <= most for one, most in zip(asked, self, strict=True))


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """One model of an Offer. ``speed`` is in units per second, 0 when not measured; ``load_ms`` counts when cold.

    ``max_length`` bounds frames or milliseconds, ``max_input`` the bytes of all inputs; 0 where there are none.
    """

    name: Annotated[str, Size(1, 48)]
    model: Hash
    native_side: Side
    max_side: Side
    max_steps: Annotated[int, Range(1, MAX_STEPS)]
    dtype: Dtype
    quality: Quality
    warm: bool
    speed: Speed
    load_ms: U32
    max_length: Length = 0
    max_input: InputSize = 0

    @property
    def limits(self) -> Limits:
        """What the model takes at most."""
        return Limits(self.max_side, self.max_steps, self.max_length, self.max_input)


@message("offer", 2)
@dataclass(frozen=True, slots=True)
class Offer:
    """``seller`` runs ``models`` at ``price`` wei per million units, until three refresh intervals after ``issued_at``.

    Each publication, also a refresh, bears a higher ``serial`` than the one before: two different offers under one
    serial are a fault with proof. ``slots == 0`` withdraws. A model appears once. Times are calendar seconds.
    """

    network: NetworkName
    settlement: Settlement
    seller: WirePeer
    serial: U64
    pipeline: Pipeline
    models: Annotated[tuple[ModelOffer, ...], Size(0, MAX_MODELS)]
    price: Amount
    slots: Annotated[int, Range(0, 1024)]
    verification: Annotated[tuple[Verification, ...], Size(1, len(Verification))]
    payout: WireAddress
    refresh_s: Annotated[int, Range(10, 86_400)]
    issued_at: U64

    def __post_init__(self) -> None:
        if len({entry.model for entry in self.models}) != len(self.models):
            raise ValueError("a model appears twice")
        if self.slots and not self.models:
            raise ValueError("an offer of no model")

    @property
    def expires_at(self) -> int:
        return self.issued_at + INTERVALS * self.refresh_s

    @property
    def withdrawn(self) -> bool:
        return self.slots == 0

    @property
    def strength(self) -> int:
        """The strongest verification on offer; what proves more serves who asks for less."""
        return max(_STRENGTH[kind] for kind in self.verification)

    def entry(self, model: bytes) -> ModelOffer | None:
        """What this offer says of one model."""
        return next((entry for entry in self.models if entry.model == model), None)

    def price_of(self, shape: JobShape) -> int:
        """Wei for a job of this shape: what a Quote of this seller may not exceed."""
        return price_for(shape.units, self.price)

    def unfit(self, shape: JobShape) -> Rule | None:
        """The first rule in the bytes of this offer alone that keeps it from a job of this shape, price aside."""
        if shape.pipeline != self.pipeline:
            return Rule.PIPELINE
        entry = self.entry(shape.model)
        if entry is None or self.withdrawn:
            return Rule.MODEL
        return unfit(shape, entry.limits, entry.quality, self.strength)


def unfit(shape: JobShape, limits: Limits, quality: Quality, strength: int) -> Rule | None:
    """Whether caps, quality class and verification of one model on offer keep it from a job of this shape."""
    if not limits.hold(shape):
        return Rule.PARAMETERS
    if shape.quality is Quality.EXACT and quality is not Quality.EXACT:
        return Rule.QUALITY
    if _STRENGTH[shape.verification] > strength:
        return Rule.VERIFICATION
    return None


@message("load", 1)
@dataclass(frozen=True, slots=True)
class Load:
    """How busy ``pipeline`` is here now: free places, jobs and milliseconds queued, which models are warm.

    ``sequence`` grows with each Load of one stream; of two, the higher counts. Unsigned: the stream is its proof.
    """

    pipeline: Name
    sequence: U64
    free: Annotated[int, Range(0, 1024)]
    queue: Annotated[int, Range(0, 65_536)]
    queue_ms: U32
    warm: Annotated[tuple[Hash, ...], Size(0, MAX_MODELS)]
