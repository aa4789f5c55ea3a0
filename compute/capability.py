"""What a machine can run and how fast: models with their sizes, speed and warmth, and why a shape does not fit.

Pure values: the worker reports them, the market offers them. Knows no price, no device library and no folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from compute.spec import MAX_SIDE, MAX_STEPS, InputSize, JobShape, Length, Side
from p2p.codec import Hash, Name, Range, Size, message

MAX_MODELS = 128
MAX_SPEED = 2**60  # units per second
MAX_LOAD_MS = 3_600_000
GUESSED_SPEED = 1_000_000  # units per second of a model nobody has run yet: slow, so that a promise is kept
GUESSED_LOAD_MS = 15_000
_WEIGHT = 4  # a new sample counts a quarter


class Dtype(StrEnum):
    """The numbers that the denoising runs in. Two results agree closely only within one class."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return 4 if self is Dtype.FP32 else 2


class Misfit(StrEnum):
    """Why a shape cannot run here. The values travel as refusal codes."""

    PIPELINE = "NO_PIPELINE"
    MODEL = "NO_MODEL"
    SIDE = "SIDE_TOO_LARGE"
    SIDE_STEP = "SIDE_UNEVEN"
    STEPS = "TOO_MANY_STEPS"
    LENGTH = "TOO_LONG"
    INPUT = "INPUT_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Unfit:
    """One reason with its numbers: what was asked (``need``), what there is (``have``)."""

    reason: Misfit
    have: int = 0
    need: int = 0


@dataclass(frozen=True, slots=True)
class ModelCapability:
    """One model on one machine. ``units_per_second`` is 0 until measured; ``load_ms`` is what a cold start adds.

    ``max_length`` bounds frames or milliseconds, ``max_input`` the bytes of all inputs; 0 where there are none.
    ``unit_ps`` is what a unit cost when the model was measured apart from jobs, in picoseconds; 0 until then.
    """

    model: Hash
    name: Name
    pipeline: Name
    native_side: Side
    max_side: Side
    side_step: Annotated[int, Range(1, MAX_SIDE)]
    max_steps: Annotated[int, Range(1, MAX_STEPS)]
    dtype: Dtype
    units_per_second: Annotated[int, Range(0, MAX_SPEED)] = 0
    load_ms: Annotated[int, Range(0, MAX_LOAD_MS)] = 0
    warm: bool = False
    max_length: Length = 0
    max_input: InputSize = 0
    unit_ps: Annotated[int, Range(0, 2**53)] = 0

    def unfit(self, shape: JobShape) -> Unfit | None:
        """Why ``shape`` cannot run on this model, or None when it can."""
        if shape.pipeline != self.pipeline:
            return Unfit(Misfit.PIPELINE)
        if shape.model != self.model:
            return Unfit(Misfit.MODEL)
        longest = max(shape.width, shape.height)
        if longest > self.max_side:
            return Unfit(Misfit.SIDE, self.max_side, longest)
        uneven = next((side for side in (shape.width, shape.height) if side % self.side_step), 0)
        if uneven:
            return Unfit(Misfit.SIDE_STEP, self.side_step, uneven)
        if shape.steps > self.max_steps:
            return Unfit(Misfit.STEPS, self.max_steps, shape.steps)
        if shape.length > self.max_length:
            return Unfit(Misfit.LENGTH, self.max_length, shape.length)
        if shape.input_bytes > self.max_input:
            return Unfit(Misfit.INPUT, self.max_input, shape.input_bytes)
        return None

    def predict_ms(self, shape: JobShape) -> int:
        """How long ``shape`` takes from its start, rounded up, a cold model's loading included."""
        run = -(-shape.units * 1000 // (self.units_per_second or GUESSED_SPEED))
        return run if self.warm else run + (self.load_ms or GUESSED_LOAD_MS)

    def measured(self, units: int, run_ms: int) -> ModelCapability:
        """This model after a job of ``units`` that took ``run_ms``: a moving average that forgets."""
        sample = min(MAX_SPEED, max(1, units * 1000 // max(1, run_ms)))
        old = self.units_per_second
        speed = sample if not old else old + (sample - old) // _WEIGHT
        return replace(self, units_per_second=max(1, speed), warm=True)


@message("capability", 2)
@dataclass(frozen=True, slots=True)
class Capability:
    """All that one machine runs. ``slots`` is how many jobs run at the same time; each model appears once."""

    models: Annotated[tuple[ModelCapability, ...], Size(0, MAX_MODELS)]
    slots: Annotated[int, Range(1, 1024)] = 1

    def __post_init__(self) -> None:
        if len({(m.pipeline, m.model) for m in self.models}) != len(self.models):
            raise ValueError("a model appears twice")

    def find(self, pipeline: str, model: bytes) -> ModelCapability | None:
        """The entry of one model, if it runs here."""
        return next((m for m in self.models if m.model == model and m.pipeline == pipeline), None)

    def unfit(self, shape: JobShape) -> Unfit | None:
        """Why ``shape`` cannot run here, or None when it can."""
        if all(m.pipeline != shape.pipeline for m in self.models):
            return Unfit(Misfit.PIPELINE)
        entry = self.find(shape.pipeline, shape.model)
        return entry.unfit(shape) if entry else Unfit(Misfit.MODEL)

    def fits(self, shape: JobShape) -> bool:
        """Whether ``shape`` can run here at all, busy or not."""
        return self.unfit(shape) is None

    def predict_ms(self, shape: JobShape) -> int:
        """How long ``shape`` takes here once it starts. Raises ValueError for a shape that does not fit."""
        entry = self.find(shape.pipeline, shape.model)
        if entry is None:
            raise ValueError("no such model here")
        return entry.predict_ms(shape)

    def updated(self, entry: ModelCapability) -> Capability:
        """This capability with ``entry`` in the place of the model's old one. Unknown models change nothing."""
        same = (entry.pipeline, entry.model)
        return replace(self, models=tuple(entry if (m.pipeline, m.model) == same else m for m in self.models))
