"""When a worker must go: what it says of its health, held against what it may take.

    RUNNING   a step may take STEP_TIMES what it takes by measure, and at least LEAST_STEP_S; not measured, ``step_s``
    LOADING   ``load_s``: a model comes from a disk, or over a network, and says nothing meanwhile
    any       ``resident`` bytes of memory, if not 0

Pure; knows no process and no connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compute import messages as m

STEP_TIMES = 20  # a machine may be busy elsewhere, and a first step of a new size takes longer
LEAST_STEP_S = 30.0  # whatever was measured: words are read and pictures are made between two steps


@dataclass(frozen=True, slots=True)
class Patience:
    """What a worker may take before it is killed."""

    step_s: float
    load_s: float
    resident: int = 0
    step_times: float = STEP_TIMES
    least_step_s: float = LEAST_STEP_S


def verdict(pong: Any, patience: Patience) -> str:
    """Why the worker that says this must go, in words; empty when it may stay."""
    if not isinstance(pong, m.Pong):
        return "answers health with nonsense"
    quiet_s = pong.quiet_ms / 1000
    if pong.phase is m.Phase.RUNNING and quiet_s > step_limit_s(pong.normal_ms, patience):
        normal = f", which takes {pong.normal_ms} ms" if pong.normal_ms else ""
        return f"stuck in a step{normal} for {int(quiet_s)} s"
    if pong.phase is m.Phase.LOADING and quiet_s > patience.load_s:
        return f"stuck in loading for {int(quiet_s)} s"
    if patience.resident and pong.resident_bytes > patience.resident:
        return f"uses {pong.resident_bytes} bytes of memory"
    return ""


def step_limit_s(normal_ms: int, patience: Patience) -> float:
    """How long a step may take that takes ``normal_ms`` by measure; 0 where nothing was measured."""
    if not normal_ms:
        return patience.step_s
    return max(patience.least_step_s, patience.step_times * normal_ms / 1000)
