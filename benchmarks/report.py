"""The form of every benchmark: what it says while it works, and the one object at its end.

A benchmark returns ``{"results": {...}, "goals": [goal(...), ...]}``; this module adds name and machine, and prints. It
knows no benchmark.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Report = dict[str, Any]


@dataclass
class Say:
    """Where the words go: stdout, or stderr when a machine reads stdout."""

    to: IO[str] = sys.stdout

    def __call__(self, text: str) -> None:
        print(text, file=self.to, flush=True)


class NotRun(Exception):
    """The benchmark could not be run to its end; the message says why."""


class Load:
    """How busy the machine was with other things: a benchmark on a busy machine measures its scheduler too."""

    def __init__(self, say: Say) -> None:
        self.before = os.getloadavg()[0]
        if self.before > cores() / 2:
            say(f"this machine is busy (load {self.before:.1f} on {cores()} cores): expect worse than it can do")

    def measured(self) -> list[float]:
        """The load of the last minute, before and after."""
        return [round(self.before, 2), round(os.getloadavg()[0], 2)]


def goal(what: str, value: float, op: str, wanted: float) -> dict[str, Any]:
    """One goal and whether it is met. ``op`` is ``<=`` or ``>=``."""
    met = value <= wanted if op == "<=" else value >= wanted
    return {"what": what, "value": value, "op": op, "goal": wanted, "met": met}


def machine(device: str | None = None) -> dict[str, Any]:
    """What it ran on. torch is named without being imported."""
    found: dict[str, Any] = {"cpu": cpu(), "cores": cores(), "python": platform.python_version()}
    try:
        found["torch"] = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return found
    return {**found, "device": device} if device else found


def cpu() -> str:
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def finish(name: str, made: Report, say: Say, load: Load) -> None:
    """Every goal in words, then the object, alone on the last line of stdout."""
    results = {**made["results"], "load": load.measured()}
    for one in made["goals"]:
        verdict = "met" if one["met"] else f"MISSED: {needed(one)}"
        say(f"goal: {one['what']}: {one['value']} {one['op']} {one['goal']}: {verdict}")
    whole = {"name": name, "machine": machine(made.get("device")), "results": results, "goals": made["goals"]}
    print(json.dumps(whole), flush=True)


def needed(one: dict[str, Any]) -> str:
    """What would have to change for a missed goal."""
    value, wanted = one["value"], one["goal"]
    if one["op"] == "<=":
        return f"it must come down by {value - wanted:.4g}, to {wanted / value:.0%} of what it is"
    return f"it must rise by {wanted - value:.4g}"


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` of them lie: the nearest rank, so always one that was measured."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(round(part * len(ranked), 6)) - 1)]
