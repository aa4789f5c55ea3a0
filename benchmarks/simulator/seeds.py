"""Many seeds, one after the other: what was run is remembered, so that ten thousand need not be run at once.

The memory is one file in the cache folder; it is about one size of world and one state of the code, and forgets
everything when either changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.simulator.invariants import judged
from benchmarks.simulator.schedule import SMALL, Schedule, Size, drawn
from benchmarks.simulator.simulation import Result, simulate

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("p2p", "compute", "ledger", "market", "benchmarks/simulator")


@dataclass(slots=True)
class Tally:
    """What became of the seeds that were run."""

    done: int = 0
    failed: dict[int, tuple[str, ...]] = field(default_factory=dict)


def run_one(schedule: Schedule, show: Callable[[str], None] | None = None) -> Result:
    """One simulation; one that breaks off is one that failed."""
    try:
        return simulate(schedule, judged, show)
    except Exception as exc:  # of whatever kind: the finding is that it could break the simulation itself
        while isinstance(exc, ExceptionGroup):
            exc = exc.exceptions[0]
        return Result(schedule, "", 0, 0.0, (f"the simulation broke off: {type(exc).__name__}: {exc}",))


def run_many(
    seeds: Iterable[int],
    size: Size = SMALL,
    until: float = float("inf"),
    told: Callable[[Result], None] = lambda result: None,
) -> Tally:
    """Run seeds until they are done, or ``until`` on the process's steady clock has passed."""
    tally = Tally()
    for seed in seeds:
        if time.monotonic() > until:
            break
        result = run_one(drawn(seed, size))
        tally.done += 1
        if result.broken:
            tally.failed[seed] = result.broken
        told(result)
    return tally


class Memory:
    """The first seed that was not run yet, of one state of the code."""

    def __init__(self, path: Path | None = None) -> None:
        folder = Path(os.environ.get("PASAR_SIMULATION_CACHE") or user_cache_path("pasar"))
        self._path = path or folder / "simulation.json"
        self._code = code_digest()

    def next_seed(self) -> int:
        try:
            known = json.loads(self._path.read_text())
            return int(known["next"]) if known["code"] == self._code else 0
        except (OSError, ValueError, KeyError):
            return 0

    def remember(self, next_seed: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"code": self._code, "next": next_seed}))


def code_digest() -> str:
    """One digest over everything that a simulation runs."""
    whole = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            whole.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()
