"""How a worker comes to its device: the settings, and the first import of torch, in a thread.

Shell. Names torch only inside the function that needs it, so that the event loop never waits for the import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from compute.capability import Dtype, ModelCapability
from compute.catalog import ModelEntry
from compute.offline import hush
from compute.safety import Checking
from compute.tracestore import TraceStore

if TYPE_CHECKING:
    from compute.device import Device
    from compute.pipelines.safety_check import SafetyCheck

ORPHAN_S = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How one worker runs. ``memory`` bounds what loaded models take in bytes (0: a share of what is free),
    ``threads`` 0 is torch's choice.

    ``parent`` started it; ``keeper``, where it is not 0, would start another parent. ``checking`` is done with results.
    """

    socket: Path
    parent: int
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    memory: int = 0
    orphan_s: float = ORPHAN_S
    keeper: int = 0
    checking: Checking | None = None


MakeDevice = Callable[
    [Settings, tuple[ModelEntry, ...], TraceStore, Callable[[ModelCapability], None]], "tuple[Device, str]"
]


async def in_thread(work: Callable[[], Any]) -> Any:
    """Off the event loop. Abandoned when the worker ends: the process exits without waiting for the device."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)  # type: ignore[call-arg]  # stubs of an old trio


def make_device(
    settings: Settings,
    entries: tuple[ModelEntry, ...],
    traces: TraceStore,
    on_change: Callable[[ModelCapability], None],
) -> tuple[Device, str]:
    """In the device's thread: the first import of torch takes seconds."""
    import torch

    from compute.device import Device, describe, pick, pipeline_class
    from compute.footprint import free_share

    hush()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    name, dtype = pick(settings.device, settings.dtype)
    for entry in entries:
        pipeline_class(entry.pipeline)  # its libraries take seconds too, and the first job would wait for them
    budget = settings.memory or free_share(name)
    return Device(name, dtype, entries, traces, budget, on_change, _checker(settings, name, dtype)), describe(name)


def _checker(settings: Settings, device: str, dtype: Dtype) -> SafetyCheck | None:
    """Loaded before any job: what should be checked is never delivered unchecked. Raises Misconfigured."""
    if settings.checking is None:
        return None
    from compute.pipelines.safety_check import SafetyCheck

    return SafetyCheck.load(settings.checking, device=device, dtype=dtype)
