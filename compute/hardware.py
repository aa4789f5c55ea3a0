"""What this machine is made of, as far as one can see without a model library. Devices are probed by the worker.

Shell. Knows no model.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Hardware:
    """Cores that this process may use, memory in bytes, and a name for people."""

    cores: int
    memory_bytes: int
    free_memory_bytes: int
    cpu: str


def probe() -> Hardware:
    """Look once. Takes milliseconds."""
    memory = psutil.virtual_memory()
    return Hardware(_cores(), int(memory.total), int(memory.available), _cpu_name())


def devices(root: Path = Path("/")) -> tuple[str, ...]:
    """What to run workers on, one each: every GPU that this process may use, when there are several.

    With one, or none, it is the model library's own choice, which knows whether it was built for it. ROCm devices
    have the names of CUDA ones there.
    """
    seen = _visible(len(_nvidia(root)), "CUDA_VISIBLE_DEVICES")
    if not seen:
        seen = _visible(len(_amd(root)), "HIP_VISIBLE_DEVICES")
    return tuple(f"cuda:{number}" for number in range(seen)) if seen > 1 else ("auto",)


def free_disk(folder: Path) -> int:
    """Free bytes where ``folder`` lies, or will lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _nvidia(root: Path) -> list[Path]:
    return [path for path in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]


def _amd(root: Path) -> list[Path]:
    """Nodes of ROCm's driver that compute: a CPU is one too, and has no such units."""
    found = []
    for path in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        units = re.search(r"^simd_count (\d+)$", path.read_text(errors="replace"), re.MULTILINE)
        if units is not None and int(units[1]):
            found.append(path)
    return found


def _visible(there: int, variable: str) -> int:
    """How many of the devices that are there the operator's environment leaves: the library numbers those anew."""
    told = os.environ.get(variable)
    if told is None:
        return there
    named = [name.strip() for name in told.split(",")]
    end = next((at for at, name in enumerate(named) if not name or name.startswith("-")), len(named))
    return min(there, end)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()[:96]
    return (platform.processor() or platform.machine())[:96]
