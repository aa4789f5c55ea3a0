"""tolerance: how far honest runs of one job lie apart, and how near a cheat comes, against what is declared.

A job of the bundled model commits to its latents, and every step is run again by one thread from the latents before it,
as a check does. Honest runs: by two threads, in batches of 2, 4 and 8, resumed from the middle. Cheats commit to what
they did and are checked against what was paid for: another seed, less guidance, no guidance, fewer steps, each step
left out in turn, weights moved by two percent, weights of eight and of four bits, a coarser number format than was
said. Kept are the worst honest distance and the least of each cheat's false steps: a check that draws one finds it.
Then whole jobs of the pipelines without steps are run by one and by two threads, and their files compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.report import Report, Say, goal
from compute.capability import Dtype
from compute.offline import go_offline, hush
from compute.spec import TEXT_TO_IMAGE
from compute.tolerance import Bound, Tolerance, tolerance
from compute.work import Replay

if TYPE_CHECKING:
    from benchmarks.tolerance_runs import Apart

STEPS, SIDE, GUIDANCE = 8, 64, 4000
PROMPTS = ("a red circle on a blue background", "a boat with a yellow sail on the sea at sunset")
FORMATS = (Dtype.FP32, Dtype.BF16)
BATCHES = {Dtype.FP32: (2, 4, 8), Dtype.BF16: (2, 4)}
JOBS = {Dtype.FP32: 2, Dtype.BF16: 1}  # of the prompts: many CPUs take ten times as long in half precision
MARGIN = 2  # times the worst honest run that a bound is at least, and at most half of the least cheat
SEEN = 0.5  # of the false steps of each cheat that half precision still tells apart: a check draws several
UNSEEN = ("weights of 8 bits", "weights moved by 2 %")  # half precision rounds about as much itself: printed, no goal


def run(say: Say) -> Report:
    """Two prompts in single precision, one in half, and one job of each pipeline without steps."""
    go_offline()
    import torch

    hush()
    from benchmarks.tolerance_whole import whole

    with torch.inference_mode():
        results: dict[str, Any] = {"steps": STEPS, "side": SIDE, "prompts": len(PROMPTS)}
        goals = []
        for dtype in FORMATS:
            allowed = tolerance(TEXT_TO_IMAGE, dtype, dtype)
            honest, cheats = _honest(dtype), _cheats(dtype)
            _tell(say, dtype.value, honest, cheats, allowed)
            results[dtype.value] = _rows(honest) | _rows(cheats) | {"declared": _declared(allowed)}
            goals += _goals(dtype.value, honest, cheats, allowed, coarse=dtype is not Dtype.FP32)
        across = _across()
        allowed = tolerance(TEXT_TO_IMAGE, Dtype.FP32, Dtype.BF16)
        _tell(say, "fp32, run again in bf16", across, {}, allowed)
        results["across"] = _rows(across)
        goals += _goals("fp32 run again in bf16", across, {}, allowed, coarse=True)
    found, more = whole(say)
    return {"device": "cpu", "results": results | {"whole": found}, "goals": goals + more}


@dataclass(frozen=True, slots=True)
class Told:
    """What was done: the distance that tells (worst or least), its bound, and what part of all lies outside of it."""

    found: Replay
    bound: Bound
    outside: float

    @classmethod
    def of(cls, every: Sequence[Replay], bound: Bound, kept: Callable[[Sequence[Replay]], Replay]) -> Told:
        missed = sum(not bound.holds(one.max_diff_nano, one.relative_ppm) for one in every)
        return cls(kept(every), bound, round(missed / len(every), 3))

    @property
    def _goals(name: str, honest: Distances, cheats: Distances, allowed: Tolerance, *, coarse: bool) -> list[Any]:
    most = max(told.fill for told in honest.values())
    goals = [goal(f"{name}: worst honest run over its bound", most, "<=", 1 / MARGIN)]
    seen = {what: told for what, told in cheats.items() if not (coarse and what in UNSEEN)}
    if seen and coarse:
        least = min(seen, key=lambda what: seen[what].outside)
        goals.append(goal(f"{name}: false steps found of the least cheat ({least})", seen[least].outside, ">=", SEEN))
    elif seen:
        least = min(seen, key=lambda what: seen[what].fill)
        goals.append(goal(f"{name}: least cheat ({least}) over its bound", seen[least].fill, ">=", MARGIN))
    return goals
