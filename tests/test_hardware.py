"""The probe sees this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from compute.hardware import free_disk, probe
from market import roles
from market.instance import claim
from p2p.errors import Misconfigured


def test_the_probe_sees_cores_memory_and_disk(tmp_path: Path) -> None:
    found = probe()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.free_memory_bytes <= found.memory_bytes
    assert 0 < len(found.cpu) <= 96
    assert free_disk(tmp_path / "not" / "yet" / "there") > 0


def test_an_orchestrator_without_room_for_results_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = claim(tmp_path, "main", "orchestrator")
    monkeypatch.setattr(roles, "free_disk", lambda folder: roles.LEAST_DISK)
    with capture_logs() as logs:
        roles.look_at_machine(held)
    assert logs[0]["cores"] >= 1
    monkeypatch.setattr(roles, "free_disk", lambda folder: roles.LEAST_DISK - 1)
    with pytest.raises(Misconfigured, match="199 MB are free"):
        roles.look_at_machine(held)
    held.release()
