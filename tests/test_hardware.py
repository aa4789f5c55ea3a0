"""The probe sees this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from compute.hardware import devices, free_disk, probe
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


def test_several_gpus_are_all_used_and_one_is_the_libraries_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert devices(tmp_path) == ("auto",)
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert devices(tmp_path) == ("auto",)
    (tmp_path / "dev" / "nvidia1").touch()
    assert devices(tmp_path) == ("cuda:0", "cuda:1")
    for told, expected in (
        ("0,1", ("cuda:0", "cuda:1")),
        ("1", ("auto",)),
        ("", ("auto",)),
        ("0,-1,1", ("auto",)),
        ("0,1,2", ("cuda:0", "cuda:1")),
        ("GPU-aa,GPU-bb", ("cuda:0", "cuda:1")),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
        assert devices(tmp_path) == expected


def test_devices_of_rocm_have_the_names_that_the_library_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for number, units in enumerate((0, 256, 256)):  # the first is the CPU
        node = tmp_path / "sys/class/kfd/kfd/topology/nodes" / str(number)
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 8\nsimd_count {units}\n")
    assert devices(tmp_path) == ("cuda:0", "cuda:1")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert devices(tmp_path) == ("auto",)
