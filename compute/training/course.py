"""One training run of a small bundled model: steps for a budget of processor minutes, averages, checkpoints, exports.

The model that is exported is the running average that measured best so far. Resumable: a step sees what its number
says, so a checkpoint holds weights, average, optimiser and counters. Knows no data and no kind of model.
"""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from compute.training.optimiser import Split
from compute.training.train import average_decay, learning_rate

_PRINT_EVERY: Final = 50


@dataclass(frozen=True, slots=True)
class Measured:
    """What an average can do: `score` (larger is better) picks the export, `rates` are for people."""

    score: float
    rates: dict[str, float]


@dataclass(frozen=True, slots=True)
class Course:
    """A run. `minutes` counts processor time over all resumes, so a busy machine does not shorten it.

    `loss` gives the loss of one step; `measure` judges an average; `export` writes it to a folder.
    """

    work: Path
    minutes: float
    model: nn.Module
    loss: Callable[[nn.Module, int], torch.Tensor]
    measure: Callable[[nn.Module], Measured]
    export: Callable[[nn.Module, Path], None]
    rate: float = 1e-3
    fine: tuple[str, ...] = ("conv_in", "conv_out", "embed")  # parameters that are no inner matrices, by name
    look_minutes: float = 1.5  # between two measurements
    say: Callable[[str], None] = print


@dataclass(slots=True)
class Standing:
    """How far a run is. `best` is the score of the export."""

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    rates: dict[str, float] = field(default_factory=dict)


def run(course: Course) -> Standing:
    """Train to the end of the budget; `work/export` holds the best average, the Standing says what it measured."""
    course.work.mkdir(parents=True, exist_ok=True)
    optimiser = Split(course.model.named_parameters(), course.rate, course.fine)
    average = copy.deepcopy(course.model).requires_grad_(False)
    standing = _resume(course, average, optimiser)
    looked, losses, budget = standing.seconds, [0.0], course.minutes * 60
    began = time.monotonic(), standing.seconds
    while standing.seconds < budget:
        start = time.process_time()
        losses.append(_step(course, average, optimiser, standing))
        standing.seconds += time.process_time() - start
        if standing.step % _PRINT_EVERY == 0:
            _report(course, standing, losses[-_PRINT_EVERY:], began)
        if standing.seconds - looked > course.look_minutes * 60:
            _look(course, average, standing)
            _save(course, average, optimiser, standing)
            looked = standing.seconds
    _look(course, average, standing)
    _save(course, average, optimiser, standing)
    return standing


def _step(course: Course, average: nn.Module, optimiser: Split, standing: Standing) -> float:
    course.model.train()
    optimiser.set_rate(learning_rate(standing.seconds / (course.minutes * 60), standing.step, course.rate))
    torch.manual_seed(standing.step)
    optimiser.zero_grad()
    loss = course.loss(course.model, standing.step)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(course.model.parameters(), 1.0)
    optimiser.step()
    standing.step += 1
    with torch.no_grad():
        pairs = list(zip(average.parameters(), course.model.parameters(), strict=True))
        torch._foreach_lerp_([one for one, _ in pairs], [two for _, two in pairs], 1 - average_decay(standing.step))
    return loss.item()


def _look(course: Course, average: nn.Module, standing: Standing) -> None:
    """Measure the average, and export it when it is the best so far."""
    found = course.measure(average.eval())
    words = ", ".join(f"{name} {value:.4f}" for name, value in found.rates.items())
    if found.score >= standing.best:
        standing.best, standing.rates = found.score, found.rates
        course.export(average, course.work / "export")
        words += " (exported)"
    course.say(f"step {standing.step}: {words}")


def _report(course: Course, standing: Standing, losses: list[float], began: tuple[float, float]) -> None:
    left = course.minutes * 60 - standing.seconds
    pace = (time.monotonic() - began[0]) / max(1e-9, standing.seconds - began[1])  # wall seconds for a second of work
    course.say(
        f"step {standing.step}  loss {sum(losses) / len(losses):.4f}  {standing.seconds / 60:.1f} min done  "
        f"{left / 60:.1f} processor min left, about {left * pace / 60:.0f} min"
    )


def _save(course: Course, average: nn.Module, optimiser: Split, standing: Standing) -> None:
    state: dict[str, Any] = {
        "model": course.model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "standing": (standing.step, standing.seconds, standing.best, standing.rates),
    }
    torch.save(state, course.work / "checkpoint.new")
    os.replace(course.work / "checkpoint.new", course.work / "checkpoint.pt")


def _resume(course: Course, average: nn.Module, optimiser: Split) -> Standing:
    path = course.work / "checkpoint.pt"
    if not path.exists():
        return Standing()
    state = torch.load(path, weights_only=True)
    course.model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    standing = Standing(*state["standing"])
    course.say(f"resumed at step {standing.step}, {standing.seconds / 60:.1f} processor minutes done")
    return standing
