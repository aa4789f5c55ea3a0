"""What a unit of each model costs on this machine's devices, remembered on disk for all nodes of one home. Shell.

    {"DEVICE": {"PIPELINE": {"HASH OF THE MODEL": picoseconds of a unit}}}

What was measured first stays until a bench measures it again: prices that follow it do not wobble. A damaged file is an
empty one, and one that cannot be written costs the next start a measurement. Knows no price.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from compute.spec import TEXT_TO_IMAGE

MAX_BYTES = 2**20
MAX_KEPT = 1024  # models, of all devices together
MAX_COST = 2**53
Key = tuple[str, str, str]  # device, pipeline, model in hex


class CostBook:
    """Read once, at the start; each change is written at once over what others wrote meanwhile."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._costs = self._read()

    def of(self, device: str, pipeline: str, model: bytes) -> int:
        """Picoseconds of a unit, 0 when it was never measured."""
        return self._costs.get((device, pipeline, model.hex()), 0)

    def known(self, device: str) -> str:
        """The device itself when anything is known of it; else the only one of which anything is."""
        devices = {where for where, _, _ in self._costs}
        return next(iter(devices)) if device not in devices and len(devices) == 1 else device

    def reference(self, device: str) -> int:
        """The dearest text-to-image that was ever measured on a device: what stands for one that is not served."""
        kept = (cost for (where, what, _), cost in self._costs.items() if (where, what) == (device, TEXT_TO_IMAGE))
        return max(kept, default=0)

    def put(self, device: str, pipeline: str, model: bytes, cost: int) -> None:
        """Remember a measurement over an earlier one. Blocks."""
        key = (device, pipeline, model.hex())
        others = {known: told for known, told in (self._read() | self._costs).items() if known != key}
        self._costs = dict([*others.items(), (key, min(cost, MAX_COST))][-MAX_KEPT:])
        with suppress(OSError):
            self._write()

    def _read(self) -> dict[Key, int]:
        try:
            with self._store.open("rb") as file:
                told = json.loads(file.read(MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        found = {}
        for device, pipelines in _items(told):
            for pipeline, models in _items(pipelines):
                for model, cost in _items(models):
                    if type(cost) is int and 0 < cost <= MAX_COST:
                        found[device, pipeline, model] = cost
        return found

    def _write(self) -> None:
        told: dict[str, dict[str, dict[str, int]]] = {}
        for (device, pipeline, model), cost in self._costs.items():
            told.setdefault(device, {}).setdefault(pipeline, {})[model] = cost
        self._store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, fresh = tempfile.mkstemp(dir=self._store.parent, prefix=f".{self._store.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(told, file, indent=1)
            os.replace(fresh, self._store)
        except OSError:
            Path(fresh).unlink(missing_ok=True)
            raise


def _items(told: Any) -> list[tuple[str, Any]]:
    return list(told.items()) if isinstance(told, dict) else []
