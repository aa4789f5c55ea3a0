"""What this machine is made of, as far as one can see without a model library. Devices are probed by the worker.

Shell. Knows no model.
"""

from __future__ import annotations

import os
import platform
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


def free_disk(folder: Path) -> int:
    """Free bytes where ``folder`` lies, or will lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


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
