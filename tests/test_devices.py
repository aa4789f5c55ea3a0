"""From the operator's word for devices to the workers of a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from compute.hardware import probe
from market.config import load_config
from market.console import run_app
from market.devices import fleet_of, worker_configs
from market.worker_commands import app
from p2p.errors import Misconfigured


def test_each_device_has_a_worker_of_its_own_name(tmp_path: Path) -> None:
    config = load_config(home=tmp_path)
    for found, names in (
        (("auto",), ["worker"]),
        (("cpu",), ["worker"]),
        (("cuda:0", "cuda:1"), ["worker-cuda0", "worker-cuda1"]),
        (("cpu", "cuda:0", "cpu"), ["worker-cpu-1", "worker-cuda0", "worker-cpu-2"]),
    ):
        made = worker_configs(config, tmp_path, found)
        assert [one.name for one in made] == names
        assert [one.device for one in made] == list(found)


def test_workers_on_the_cpu_share_cores_and_memory(tmp_path: Path) -> None:
    config = load_config(home=tmp_path, shelf={"memory": 900})
    (alone,) = worker_configs(config, tmp_path, ("cpu",))
    assert (alone.threads, alone.memory) == (0, 900)
    first, gpu, second = worker_configs(config, tmp_path, ("cpu", "cuda:0", "cpu"))
    assert (first.threads, first.memory) == (max(1, probe().cores // 2), 450)
    assert (second.threads, second.memory) == (first.threads, first.memory)
    assert (gpu.threads, gpu.memory) == (0, 900)
    for one in worker_configs(load_config(home=tmp_path, threads=3), tmp_path, ("cpu", "cpu")):
        assert one.threads == 3
        assert 0 < one.memory <= probe().memory_bytes // 4


def test_devices_come_from_flags_file_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASAR_DEVICES", "cpu, cuda:1,[::1]:4720")
    assert load_config().devices == ("cpu", "cuda:1", "[::1]:4720")
    assert load_config(devices=("mps",)).devices == ("mps",)
    for wrong in ("gpu", "cuda:", "cuda:100", "cpu:", ":4720", "host:70000", "host"):
        with pytest.raises(Misconfigured, match="none of auto, cpu, cuda"):
            load_config(devices=(wrong,))


def test_an_address_is_a_door_and_no_device(tmp_path: Path) -> None:
    config = load_config(home=tmp_path, devices=("127.0.0.1:0",))
    assert fleet_of(config, tmp_path).workers == ()
    assert (tmp_path / "worker.key").exists()
    with pytest.raises(Misconfigured, match="one address"):
        fleet_of(load_config(home=tmp_path, devices=("127.0.0.1:0", "[::1]:0")), tmp_path)


def test_a_worker_without_a_key_or_an_address_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PASAR_HOME", str(tmp_path))
    key = tmp_path / "worker.key"
    for line, says in (
        (["--connect", "nowhere", "--key", str(key)], "no HOST:PORT"),
        (["--connect", "127.0.0.1:1", "--key", str(key), "--name", "../there"], "1 to 32 letters"),
        (["--connect", "127.0.0.1:1", "--key", str(key)], "no key of an orchestrator's door"),
        (["--connect", "127.0.0.1:1", "--key", str(key), "--device", "gpu"], "none of auto"),
    ):
        assert run_app(app, line) == 2
        assert says in capsys.readouterr().err
