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
    def fill(self) -> float:
        """How much of its bound it takes: 1 is all of it; of the two measures, the fuller one."""
        return round(max(self.found.max_diff_nano / self.bound.nano, self.found.relative_ppm / self.bound.ppm), 4)


Distances = dict[str, Told]


def _jobs(dtype: Dtype) -> list[Any]:
    from benchmarks.tolerance_runs import spec

    return [spec(prompt, SIDE, STEPS, GUIDANCE, seed) for seed, prompt in enumerate(PROMPTS[: JOBS[dtype]])]


def _honest(dtype: Dtype) -> Distances:
    """The worst of each kind of honest run."""
    from benchmarks import tolerance_runs as runs

    model = runs.load(dtype)
    found: dict[str, list[Apart]] = {}
    for job in _jobs(dtype):
        with runs.threads(1):
            alone = runs.commit(model, job)
            claims = {"again": runs.commit(model, job)}
            claims |= {f"batch of {size}": runs.commit(model, job, size - 1) for size in BATCHES[dtype]}
        with runs.threads(2):
            claims["two threads"] = runs.commit(model, job)
        with runs.threads(1):
            half = STEPS // 2
            resumed = runs.commit(model, job, since=(half, claims["two threads"].latents[half]))
            found.setdefault("resumed", []).append(runs.apart(model, job, resumed, half))
            for name, claim in {"alone": alone, **claims}.items():
                found.setdefault(name, []).append(runs.apart(model, job, claim))
    return _worst(found, tolerance(TEXT_TO_IMAGE, dtype, dtype))


def _worst(found: dict[str, list[Apart]], allowed: Tolerance) -> Distances:
    from benchmarks.tolerance_runs import worst

    told: Distances = {}
    for name, every in found.items():
        told[f"{name}: step"] = Told.of([step for one in every for step in one.steps], allowed.step, worst)
        told[f"{name}: start"] = Told.of([one.start for one in every], allowed.start, worst)
        told[f"{name}: picture"] = Told.of([one.picture for one in every], allowed.picture, worst)
    return told


def _cheats(dtype: Dtype) -> Distances:
    """The least distance of what is false in each kind of cheat."""
    from benchmarks import tolerance_runs as runs

    allowed, model = tolerance(TEXT_TO_IMAGE, dtype, dtype), runs.load(dtype)
    found: dict[str, list[Replay]] = {}
    others = {
        "weights moved by 2 %": runs.coarser(runs.load(dtype), runs.shaken(0.02)),
        "weights of 8 bits": runs.coarser(runs.load(dtype), runs.quantised(8)),
        "weights of 4 bits": runs.coarser(runs.load(dtype), runs.quantised(4)),
    }
    if dtype is Dtype.FP32:
        others["bf16 said to be fp32"] = runs.load(Dtype.BF16)
    with runs.threads(1):
        for number, job in enumerate(_jobs(dtype)):
            other = runs.spec(PROMPTS[number], SIDE, STEPS, GUIDANCE, 100 + number)
            seed = runs.apart(model, job, runs.commit(model, other)).start
            found.setdefault("another seed", []).append(seed)
            claims = {"guidance 3 for 4": runs.commit(model, runs.spec(job.prompt, SIDE, STEPS, 3000, job.seed))}
            claims["no guidance"] = runs.commit(model, runs.spec(job.prompt, SIDE, STEPS, 0, job.seed))
            fewer = runs.spec(job.prompt, SIDE, STEPS - 1, GUIDANCE, job.seed)
            claims["one step fewer"] = runs.stretched(runs.commit(model, fewer), STEPS)
            claims |= {name: runs.commit(cheap, job) for name, cheap in others.items()}
            for name, claim in claims.items():
                found.setdefault(name, []).extend(runs.apart(model, job, claim).steps)
            gaps = runs.left_out(model, job, runs.commit(model, job))
            found.setdefault("a step left out", []).extend(gaps)
    bounds = {"another seed": allowed.start}
    return {name: Told.of(every, bounds.get(name, allowed.step), runs.best) for name, every in found.items()}


def _across() -> Distances:
    """Runs in fp32, checked by who calculates in bf16."""
    from benchmarks import tolerance_runs as runs

    single, half = runs.load(Dtype.FP32), runs.load(Dtype.BF16)
    with runs.threads(1):
        found = [runs.apart(half, job, runs.commit(single, job)) for job in _jobs(Dtype.BF16)]
    return _worst({"alone": found}, tolerance(TEXT_TO_IMAGE, Dtype.FP32, Dtype.BF16))


# -- telling -----------------------------------------------------------------------------------------------------------


def _tell(say: Say, name: str, honest: Distances, cheats: Distances, allowed: Tolerance) -> None:
    say(f"{name}: a step may be off by {allowed.step.nano / 1e9:g}, and by {allowed.step.ppm / 1e4:g} % of itself")
    for kind, every in (("honest", honest), ("cheat", cheats)):
        for what, told in every.items():
            size = f"{told.found.max_diff_nano / 1e9:12.3g} {told.found.relative_ppm:10} ppm"
            say(f"  {kind:6} {what:28} {size}  {told.outside:.0%} outside")


def _rows(every: Distances) -> dict[str, list[float]]:
    return {what: [told.found.max_diff_nano, told.found.relative_ppm, told.outside] for what, told in every.items()}


def _declared(allowed: Tolerance) -> dict[str, list[int]]:
    named = {"start": allowed.start, "step": allowed.step, "picture": allowed.picture, "result": allowed.result}
    return {what: [bound.nano, bound.ppm] for what, bound in named.items()}


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
