"""What loaded models take in memory, measured on the device that holds them. Imports torch; runs in a worker.

On a GPU the allocator is asked. On a CPU two things are known: what the tensors of a model hold, exactly, and by how
much the process grew, which also counts what the library keeps beside them, and whatever else happened meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import torch

GPU_SHARE, CPU_SHARE = 0.9, 0.5  # of what is free at the start
_DEPTH = 4


def free_share(device: str) -> int:
    """What models may take on this device when nobody says otherwise."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * GPU_SHARE)
    return int(psutil.virtual_memory().available * CPU_SHARE)


def taken(device: str) -> int:
    """Bytes taken now, as the device counts them: by tensors on a GPU, by the whole process elsewhere."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated(device))
    if device.startswith("mps"):
        return int(torch.mps.current_allocated_memory())
    return int(psutil.Process().memory_info().rss)


def held_by(pipeline: Any) -> int:
    """Bytes of all tensors of a loaded model, each storage counted once."""
    storages = {}
    for module in _modules(pipeline, _DEPTH):
        for tensor in (*module.parameters(), *module.buffers()):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _modules(thing: Any, depth: int) -> Iterator[torch.nn.Module]:
    if isinstance(thing, torch.nn.Module):
        yield thing
    elif depth:
        inside = getattr(thing, "components", None)
        if not isinstance(inside, dict):
            inside = thing if isinstance(thing, dict) else getattr(thing, "__dict__", {})
        for part in inside.values():
            yield from _modules(part, depth - 1)
