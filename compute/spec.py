"""What is asked of a machine: JobShape, which everybody may see, and JobSpec, which only the winner sees.

The shape is all that a price and a prediction need: pipeline, model, sizes, steps. The spec adds prompt, seed and a
salt, so that its digest says nothing about a short prompt. Knows no price and no buyer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from p2p.codec import Hash, Name, Range, Size, message
from p2p.envelope import digest_of

TEXT_TO_IMAGE = "text-to-image"

MAX_PROMPT = 4096  # bytes of UTF-8
MAX_SIDE = 1024  # pixels
MIN_SIDE = 64
SIDE_STEP = 8
MAX_STEPS = 4096
MAX_GUIDANCE = 30_000  # thousandths
MAX_SEED = 2**63 - 1

Side = Annotated[int, Range(MIN_SIDE, MAX_SIDE)]


class Quality(StrEnum):
    """``exact``: the model as published. ``fast``: caches, quantised or distilled, named in the Offer."""

    EXACT = "exact"
    FAST = "fast"


class Verification(StrEnum):
    """What a result must prove: nothing, a Receipt, or a Receipt with a trace that can be opened."""

    NONE = "none"
    RECEIPT = "receipt"
    TRACE = "trace"


@dataclass(frozen=True, slots=True)
class JobShape:
    """The part of a job that an RFQ may show: no prompt, no input, no limit.

    ``model`` is the hash of the weights; ``width`` and ``height`` are pixels; ``guided`` when guidance is above 1, so
    that each step costs two model evaluations; ``input_bytes`` is the size of all inputs together.
    """

    pipeline: Name
    model: Hash
    width: Side
    height: Side
    steps: Annotated[int, Range(1, MAX_STEPS)]
    guided: bool
    quality: Quality = Quality.EXACT
    verification: Verification = Verification.TRACE
    input_bytes: Annotated[int, Range(0, 2**31)] = 0

    def __post_init__(self) -> None:
        if self.width % SIDE_STEP or self.height % SIDE_STEP:
            raise ValueError(f"sides are multiples of {SIDE_STEP} pixels")

    @property
    def units(self) -> int:
        """Output pixels times model evaluations: what a price counts."""
        return self.width * self.height * self.steps * (2 if self.guided else 1)


@message("job-spec", 1)
@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job in full. ``guidance`` is in thousandths; ``salt`` keeps the digest from telling the prompt."""

    shape: JobShape
    prompt: Annotated[str, Size(0, MAX_PROMPT)]
    negative_prompt: Annotated[str, Size(0, MAX_PROMPT)]
    guidance: Annotated[int, Range(0, MAX_GUIDANCE)]
    seed: Annotated[int, Range(0, MAX_SEED)]
    salt: Annotated[bytes, Size(16, 16)]

    def __post_init__(self) -> None:
        if self.shape.guided != (self.guidance > 1000):
            raise ValueError("shape.guided does not agree with guidance")

    @property
    def digest(self) -> bytes:
        """32 bytes that name this spec, salted."""
        return digest_of(self)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a result, whole: its media type, its bytes. The digest is in ``compute/digest.py``."""

    media_type: str
    data: bytes
