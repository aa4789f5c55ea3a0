"""Placing: how many jobs an orchestrator takes at a time, and how long each is promised to take.

With a number from the operator: so many, whatever they are. Without one the machine is asked, which knows what it
gained when it was measured: jobs of one kind share it as long as that pays, and one of another kind waits until it is
free. Either way a promise counts with every place taken: whoever comes later must not make it a lie.

``taken`` are jobs in work and places held for quotes, told apart by whoever asks. Knows no gateway and no price.
"""

from __future__ import annotations

from collections.abc import Sequence

from compute.capability import ModelCapability
from compute.spec import DENOISED, JobShape, Verification
from compute.work import Machine
from market.quote import Places


class Placing:
    """Invariant: who only takes jobs while places are left never has more in work than any of them was promised."""

    def __init__(self, machine: Machine, asked: int | None) -> None:
        """``asked`` is the operator's number; more places than the machine has would be jobs that are late."""
        self._machine, self._told = machine, asked

    @property
    def _asked(self) -> int | None:
        return None if self._told is None else min(self._told, self._machine.capability().slots)  # devices come and go

    def offered(self, pipeline: str) -> int:
        """How many jobs of a pipeline may be had at a time."""
        if self._asked is not None:
            return self._asked
        return max((self._worth(shape) for shape in self._native(pipeline)), default=1)

    def places(self, shape: JobShape, in_work: Sequence[JobShape], held: Sequence[JobShape]) -> Places:
        """What there is for a job now. ``free`` counts held places too, as whoever holds them has them."""
        fits = self._machine.capability().fits(shape)
        run_ms = self._machine.crowded_ms(shape, self._most(shape)) if fits else 0
        if self._asked is not None:
            free = max(0, self._asked - len(in_work))
        else:
            free = self._machine.places(shape, [*in_work, *held]) + len(held)
        return Places(free=free, queue=len(in_work), queue_ms=0, run_ms=run_ms)

    def free(self, pipeline: str, taken: Sequence[JobShape]) -> int:
        """How many more jobs of a pipeline, of the kind that there would be most of, have a place now."""
        alike = [shape for shape in taken if shape.pipeline == pipeline]
        return max((self._left(shape, taken) for shape in alike or self._native(pipeline)), default=0)

    def _most(self, shape: JobShape) -> int:
        return self._asked if self._asked is not None else self._worth(shape)

    def _worth(self, shape: JobShape) -> int:
        return max(1, self._machine.places(shape, ()))

    def _left(self, shape: JobShape, taken: Sequence[JobShape]) -> int:
        if self._asked is not None:
            return max(0, self._asked - len(taken))
        return self._machine.places(shape, taken)

    def _native(self, pipeline: str) -> list[JobShape]:
        return [_native(entry) for entry in self._machine.capability().models if entry.pipeline == pipeline]


def _native(entry: ModelCapability) -> JobShape:
    """A job of the size that a model was made for, or of no size where it makes no pictures step by step."""
    side = entry.native_side if entry.pipeline in DENOISED else 0
    return JobShape(entry.pipeline, entry.model, side, side, 1, side > 0, verification=Verification.RECEIPT)
