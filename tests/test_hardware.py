"""The probe sees this machine."""

from __future__ import annotations

import os
from pathlib import Path

from compute.hardware import free_disk, probe


def test_the_probe_sees_cores_memory_and_disk(tmp_path: Path) -> None:
    found = probe()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.free_memory_bytes <= found.memory_bytes
    assert 0 < len(found.cpu) <= 96
    assert free_disk(tmp_path / "not" / "yet" / "there") > 0
