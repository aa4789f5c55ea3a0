"""From what an operator set to the workers of a node: which devices, how they share cores and memory, which models.

Shell. Knows no role and no price.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from compute.doorway import Doorway
from compute.fleet import Fleet
from compute.hardware import devices, probe
from compute.pins import read_pins
from compute.served import Wanted, serve
from compute.workerchild import WorkerConfig
from market.config import Config, is_doorway
from market.modeldoor import cache_of, store_of
from p2p.errors import Misconfigured


def fleet_of(config: Config, data_dir: Path, keeper: int = 0) -> Fleet:
    """The machine of an orchestrator. ``keeper`` would restart the node. Raises Misconfigured."""
    doors = [one for one in config.devices if is_doorway(one)]
    if len(doors) > 1:
        raise Misconfigured(f"devices: {' and '.join(doors)}: one address for workers of other hosts is enough")
    found = tuple(one for one in config.devices if not is_doorway(one)) or (() if doors else devices())
    host, _, port = doors[0].rpartition(":") if doors else ("", "", "0")
    door = Doorway(host.strip("[]"), int(port), data_dir) if doors else None
    return Fleet(
        worker_configs(config, data_dir, found, keeper), partial(serve, wanted(config, data_dir)), config.slots, door
    )


def wanted(config: Config, data_dir: Path) -> Wanted:
    """The models that a node serves."""
    pinned = tuple(dict.fromkeys((*config.shelf.pinned, *read_pins(data_dir))))
    return Wanted(
        config.models,
        store_of(config),
        cache_of(config),
        pinned,
        config.shelf.pulls,
        config.shelf.disk,
        config.safety.checking,
    )


def worker_configs(config: Config, data_dir: Path, found: tuple[str, ...], keeper: int = 0) -> tuple[WorkerConfig, ...]:
    """One for each device. Those that run on the CPU share its cores and the memory that models may take."""
    plain = WorkerConfig(
        data_dir / "worker",
        (),
        threads=config.threads,
        memory=config.shelf.memory,
        keeper=keeper,
        digest_store=cache_of(config).store,
    )
    return tuple(
        _sharing(replace(plain, name=name, device=device), found.count("cpu"))
        for name, device in zip(_names(found), found, strict=True)
    )


def _names(found: tuple[str, ...]) -> list[str]:
    """What the workers are called, the same at each start; a lone one has no device in its name."""
    if len(found) == 1:
        return ["worker"]
    seen: Counter[str] = Counter()
    names = []
    for device in found:
        seen[device] += 1
        number = f"-{seen[device]}" if found.count(device) > 1 else ""
        names.append(f"worker-{device.replace(':', '')}{number}")
    return names


def _sharing(worker: WorkerConfig, on_cpu: int) -> WorkerConfig:
    if worker.device != "cpu" or on_cpu < 2:
        return worker
    machine = probe()
    return replace(
        worker,
        threads=worker.threads or max(1, machine.cores // on_cpu),
        memory=(worker.memory or machine.free_memory_bytes // 2) // on_cpu,
    )
