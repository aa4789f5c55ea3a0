"""Calibration: how much faster a device makes steps of one model when several samples share them.

Measured once for a loaded model, on the model itself. Shell: it runs the model and looks at a clock. What is made
of the result is in ``compute/batching.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from compute.batching import LEAST_GAIN, SIZES, gains_of
from compute.pipeline import Pipeline, Run

BUDGET_S = 1.5  # a step that takes so long that this is not enough fills the device alone
_TIMES = 2
_MORE = 4  # times, in turn with half as many, before a size is given up: something else may have been busy here


class PutOff(Exception):
    """A job came in the middle of it."""


def calibrate(
    pipeline: Pipeline,
    run: Run,
    clock: Callable[[], float] = time.monotonic,
    wanted: Callable[[], bool] = lambda: False,
) -> tuple[tuple[int, ...], float]:
    """What batches of each size do in percent of one alone, as far as they pay, and the seconds of a step alone.

    Stops at a size that does not pay, that finds no memory, or for which no time is left. ``clock`` tells what a step
    takes: where one thread does it all, its own processor time, which other processes change least. Raises PutOff as
    soon as the device is ``wanted`` for something else.
    """
    started = clock()
    timed = partial(_time, pipeline, clock, wanted)
    latents = run.start()
    best: list[float] = []
    for size in SIZES:
        turns = [(run, latents, 0)] * size
        spent = clock() - started
        if best and spent + best[-1] * 2 * (_TIMES + 1) > BUDGET_S:
            break
        try:
            best.append(timed(turns, _TIMES, warm=size > 1))
            for _ in range(_MORE):
                if len(best) == 1 or _pays(best) or clock() - started > BUDGET_S:
                    break
                best[-2] = min(best[-2], timed(turns[: size // 2], 1))
                best[-1] = min(best[-1], timed(turns, 1))
        except (MemoryError, RuntimeError):  # torch says a full device with the second
            if size == 1:
                raise
            break
        if len(best) > 1 and not _pays(best):
            break
    return gains_of(size / seconds for size, seconds in zip(SIZES, best, strict=False)), best[0]


def _pays(best: list[float]) -> bool:
    return 2 * best[-2] * 100 >= best[-1] * LEAST_GAIN


def _time(
    pipeline: Pipeline,
    clock: Callable[[], float],
    wanted: Callable[[], bool],
    turns: list[tuple[Run, Any, int]],
    times: int,
    *,
    warm: bool = False,
) -> float:
    """The shortest of some steps. ``warm``: one more before, since a new size is prepared when it is first seen."""
    found, began = list[float](), clock()
    for number in range(times + warm):
        if wanted():
            raise PutOff
        started = clock()
        for (run, _, _), latents in zip(turns, pipeline.step_together(turns), strict=True):
            run.to_bytes(latents)  # waits for the device
        if number or not warm:
            found.append(clock() - started)
        if found and clock() - began > BUDGET_S:
            break
    return min(found)
