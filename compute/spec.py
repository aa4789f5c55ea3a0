"""What is asked of a machine: JobShape, which everybody may see, and JobSpec, which only the winner sees.

The shape is all that a price and a prediction need: pipeline, model, sizes, length, steps. The spec adds prompt, seed,
the names of the inputs, the options of the pipeline, and a salt, so that its digest says nothing about a short prompt.
Knows no price and no buyer, and no pipeline's rules beyond sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from p2p.codec import Hash, Name, Range, Size, message
from p2p.envelope import digest_of

TEXT_TO_IMAGE = "text-to-image"
IMAGE_TO_IMAGE = "image-to-image"
IMAGE_TO_VIDEO = "image-to-video"
UPSCALE = "upscale"
AUDIO_TO_TEXT = "audio-to-text"
IMAGE_TO_TEXT = "image-to-text"
SEGMENT_ANYTHING = "segment-anything"
TRANSCODE = "transcode"
VERIFY_STEP = "verify-step"  # runs a part of another job again: compute/evidence.py
DENOISED = frozenset({TEXT_TO_IMAGE, IMAGE_TO_IMAGE})  # step by step, on latents of a fixed grid

MAX_PROMPT = 4096  # bytes of UTF-8
MAX_SIDE = 4096  # pixels
MAX_DENOISED_SIDE = 1024  # of what is made step by step, all steps in memory
MIN_SIDE = 64
SIDE_STEP = 8
MAX_STEPS = 4096
MAX_GUIDANCE = 30_000  # thousandths
MAX_SEED = 2**53 - 1  # what every JSON reader takes without rounding
MAX_LENGTH = 24 * 3600 * 1000  # frames of a clip, or milliseconds of sound
MAX_INPUTS = 8
MAX_INPUT = 48 * 2**20  # bytes of all inputs of a job: a node holds them in memory
MAX_OPTIONS = 32

Side = Annotated[int, Range(0, MAX_SIDE)]
Length = Annotated[int, Range(0, MAX_LENGTH)]
InputSize = Annotated[int, Range(0, MAX_INPUT)]


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

    ``model`` is the hash of the weights; ``width`` and ``height`` are pixels, 0 where there is no picture, and of films
    that are transcoded the blocks of a frame (``compute/profiles.py``); ``guided`` when guidance is above 1, so that
    each step costs two model evaluations; ``input_bytes`` is the size of all inputs together; ``length`` is frames of a
    clip or milliseconds of sound, 0 where there is neither.
    """

    pipeline: Name
    model: Hash
    width: Side
    height: Side
    steps: Annotated[int, Range(1, MAX_STEPS)]
    guided: bool
    quality: Quality = Quality.EXACT
    verification: Verification = Verification.TRACE
    input_bytes: InputSize = 0
    length: Length = 0

    def __post_init__(self) -> None:
        if (self.width == 0) != (self.height == 0):
            raise ValueError("a picture has two sides")
        if self.pipeline in DENOISED and (self.width % SIDE_STEP or self.height % SIDE_STEP):
            raise ValueError(f"sides are multiples of {SIDE_STEP} pixels")
        least, most = min(self.width, self.height), max(self.width, self.height)
        if self.pipeline in DENOISED and not MIN_SIDE <= least <= most <= MAX_DENOISED_SIDE:
            raise ValueError(f"sides are {MIN_SIDE} to {MAX_DENOISED_SIDE} pixels, not {self.width} x {self.height}")

    @property
    def units(self) -> int:
        """What a price counts: output pixels, times frames or milliseconds, times model evaluations."""
        return max(1, self.width * self.height) * max(1, self.length) * self.steps * (2 if self.guided else 1)


@dataclass(frozen=True, slots=True)
class Input:
    """One file that a job works on, by the SHA-256 of its bytes. It travels apart from the spec."""

    media_type: Annotated[str, Size(1, 64)]
    size: Annotated[int, Range(1, MAX_INPUT)]
    digest: Hash


@dataclass(frozen=True, slots=True)
class Option:
    """One parameter of a pipeline beyond those that all have; the pipeline says which there are."""

    name: Annotated[str, Size(1, 32)]
    value: Annotated[str, Size(0, 256)]


@message("job-spec", 2)
@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job in full. ``guidance`` is in thousandths; ``salt`` keeps the digest from telling the prompt.

    Options stand in the order of their names, each once, so that one job has one digest.
    """

    shape: JobShape
    prompt: Annotated[str, Size(0, MAX_PROMPT)]
    negative_prompt: Annotated[str, Size(0, MAX_PROMPT)]
    guidance: Annotated[int, Range(0, MAX_GUIDANCE)]
    seed: Annotated[int, Range(0, MAX_SEED)]
    salt: Annotated[bytes, Size(16, 16)]
    inputs: Annotated[tuple[Input, ...], Size(0, MAX_INPUTS)] = ()
    options: Annotated[tuple[Option, ...], Size(0, MAX_OPTIONS)] = ()

    def __post_init__(self) -> None:
        if self.shape.guided != (self.guidance > 1000):
            raise ValueError("shape.guided does not agree with guidance")
        if self.shape.input_bytes != sum(file.size for file in self.inputs):
            raise ValueError("shape.input_bytes does not agree with the inputs")
        if len({file.digest for file in self.inputs}) != len(self.inputs):
            raise ValueError("an input appears twice")
        names = [option.name for option in self.options]
        if names != sorted(set(names)):
            raise ValueError("options stand in the order of their names, each once")

    def option(self, name: str, default: str = "") -> str:
        """The value of one option."""
        return next((option.value for option in self.options if option.name == name), default)

    @property
    def digest(self) -> bytes:
        """32 bytes that name this spec, salted."""
        return digest_of(self)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a result, whole: its media type, its bytes. The digest is in ``compute/digest.py``."""

    media_type: str
    data: bytes
