"""Costing: how long a device takes for one unit of a pipeline's work, in picoseconds, so that pipelines compare.

Measured on a loaded model, as often as it takes to leave out what another process did meanwhile: the shortest counts.
Shell: it runs the model and looks at a clock. What is made of the result is in ``market/prices.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from compute.pipeline import Pipeline
from compute.spec import JobSpec
from compute.yardstick import STEPS, unit_ps

TIMES = 3
BUDGET_S = 1.5  # what takes so long is measured once

Clock = Callable[[], float]


def cost_of_denoising(pipeline: Pipeline, spec: JobSpec, step_s: float, clock: Clock) -> int:
    """A unit of what is made step by step. ``spec`` is one step, which takes ``step_s``; what is around it is run.

    Reading the words and decoding the picture are spread over the steps of the yardstick.
    """

    def around() -> None:
        run = pipeline.open(spec, ())
        run.finish(run.start())

    return unit_ps(_shortest(around, clock) + STEPS * step_s, STEPS * spec.shape.units)


def cost_of_piece(pipeline: Pipeline, spec: JobSpec, files: Sequence[bytes], clock: Clock) -> tuple[int, float]:
    """A unit of what is made in one piece, and the seconds of the whole piece. It has run once before."""

    def piece() -> None:
        run = pipeline.open(spec, files)
        run.finish(pipeline.step_together([(run, run.start(), 0)])[0])

    took = _shortest(piece, clock)
    return unit_ps(took, spec.shape.units), took


def _shortest(work: Callable[[], None], clock: Clock) -> float:
    found, began = list[float](), time.monotonic()
    while len(found) < TIMES and (not found or time.monotonic() - began < BUDGET_S):
        started = clock()
        work()
        found.append(clock() - started)
    return min(found)
