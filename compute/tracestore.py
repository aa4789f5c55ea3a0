"""Keeps the latents of finished jobs on disk for a while, so that a committed trace can be opened.

Shell around ``compute/trace.py``. One file of leaves and one index per job; the index survives a restart of the worker.
Bounded by bytes: the oldest traces go first. Leaves are written by the device's thread and read by others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from compute.capability import Dtype
from compute.trace import MAX_LEAF, MAX_LEAVES, TraceLeaf, leaf_hash, merkle_path, merkle_root
from p2p.codec import JobId, Range, Size, decode_as, encode, message
from p2p.errors import PeerFault, Refused, UnknownMessage

KEEP_S = 900.0  # ten minutes are promised from the Receipt, which is signed a little later
BUDGET = 2 * 2**30


@message("trace-index", 1)
@dataclass(frozen=True, slots=True)
class TraceIndex:
    """What is needed to open leaves of one job: they lie one after the other, all ``leaf_size`` bytes long."""

    job_id: JobId
    dtype: Dtype
    leaf_size: Annotated[int, Range(1, MAX_LEAF)]
    timesteps: Annotated[tuple[int, ...], Size(2, MAX_LEAVES)]
    hashes: Annotated[bytes, Size(64, 32 * MAX_LEAVES)]

    def __post_init__(self) -> None:
        if len(self.hashes) != 32 * len(self.timesteps):
            raise ValueError("as many hashes as timesteps")

    @property
    def leaf_hashes(self) -> list[bytes]:
        """The hashes one by one."""
        return [self.hashes[i : i + 32] for i in range(0, len(self.hashes), 32)]

    @property
    def size(self) -> int:
        """Bytes of all leaves."""
        return self.leaf_size * len(self.timesteps)


class TraceStore:
    """The traces in one folder. Invariant: their leaves together never exceed the budget."""

    def __init__(self, folder: Path, budget: int = BUDGET, keep_s: float = KEEP_S) -> None:
        self.folder, self.budget, self.keep_s = folder, budget, keep_s
        self._lock = threading.Lock()
        self._kept: dict[bytes, tuple[TraceIndex, float]] = {}  # oldest first
        self._bytes = 0  # of all that is kept: asked for with every leaf of every job
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._rescan()

    def begin(self, job_id: bytes, dtype: Dtype, *, keep: bool) -> TraceWriter:
        """Start a trace; without ``keep`` it is only committed to. An older trace of the same job is dropped."""
        with self._lock:
            self._drop(job_id)
        return TraceWriter(self, job_id, dtype, keep)

    def open(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        """The leaves with their paths. Raises Refused ``NO_TRACE``. Blocks."""
        with self._lock:
            index, _ = self._kept.get(job_id, (None, 0.0))
            if index is None:
                raise Refused("NO_TRACE", "this job's trace is not kept here")
            if any(k >= len(index.timesteps) for k in indexes):
                raise Refused("NO_LEAF", "the trace has fewer leaves", have=len(index.timesteps), need=max(indexes) + 1)
            hashes = index.leaf_hashes
            with self._leaves(job_id).open("rb") as file:
                return tuple(self._read(file, index, hashes, k) for k in indexes)

    def expire(self) -> None:
        """Drop what is old enough."""
        now = time.time()
        with self._lock:
            for job_id in [j for j, (_, since) in self._kept.items() if now - since > self.keep_s]:
                self._drop(job_id)

    def make_room(self, size: int) -> bool:
        """Drop the oldest traces until ``size`` more bytes fit. False when they never will."""
        with self._lock:
            while self._kept and self._bytes + size > self.budget:
                self._drop(next(iter(self._kept)))
        return size <= self.budget

    def keep(self, index: TraceIndex) -> None:
        """Take over a finished file of leaves."""
        path = self._leaves(index.job_id).with_suffix(".index")
        path.with_suffix(".fresh").write_bytes(encode(index))
        path.with_suffix(".fresh").replace(path)
        with self._lock:
            older = self._kept.pop(index.job_id, None)
            self._bytes += index.size - (older[0].size if older else 0)
            self._kept[index.job_id] = (index, time.time())

    def _read(self, file: BinaryIO, index: TraceIndex, hashes: list[bytes], k: int) -> TraceLeaf:
        file.seek(k * index.leaf_size)
        raw = file.read(index.leaf_size)
        if len(raw) != index.leaf_size:
            raise Refused("NO_TRACE", "the leaves are damaged")
        return TraceLeaf(k, index.timesteps[k], index.dtype, raw, merkle_path(hashes, k))

    def _rescan(self) -> None:
        found = []
        for path in self.folder.glob("*.index"):
            with suppress(PeerFault, UnknownMessage, OSError):
                index = decode_as(TraceIndex, path.read_bytes())
                if self._leaves(index.job_id).stat().st_size == index.size and path.stem == index.job_id.hex():
                    found.append((path.stat().st_mtime, index))
        self._kept = {index.job_id: (index, since) for since, index in sorted(found, key=lambda pair: pair[0])}
        self._bytes = sum(index.size for index, _ in self._kept.values())
        for path in self.folder.iterdir():  # what an interrupted job left
            if path.suffix in (".leaves", ".index", ".fresh") and path.stem not in {j.hex() for j in self._kept}:
                path.unlink()

    def _drop(self, job_id: bytes) -> None:
        gone = self._kept.pop(job_id, None)
        self._bytes -= gone[0].size if gone else 0
        for suffix in (".index", ".leaves"):
            self._leaves(job_id).with_suffix(suffix).unlink(missing_ok=True)

    def _leaves(self, job_id: bytes) -> Path:
        return self.folder / f"{job_id.hex()}.leaves"


class TraceWriter:
    """One trace in the making: leaves in order, then ``finish`` or ``discard``. Only hashes stay in memory."""

    def __init__(self, store: TraceStore, job_id: bytes, dtype: Dtype, keep: bool) -> None:
        self._store, self._job_id, self._dtype, self._keep = store, job_id, dtype, keep
        self._path = store.folder / f"{job_id.hex()}.leaves"
        self._file: BinaryIO | None = self._path.open("wb") if keep else None
        self._leaf_size = 0
        self._timesteps: list[int] = []
        self._hashes: list[bytes] = []

    def add(self, timestep: int, raw: bytes) -> None:
        """The next leaf."""
        self._hashes.append(leaf_hash(self._job_id, len(self._hashes), timestep, self._dtype, raw))
        self._timesteps.append(timestep)
        self._leaf_size = len(raw)
        if self._file is not None:
            if not self._store.make_room(len(raw) * len(self._hashes)):
                self.discard()
                return
            try:
                self._file.write(raw)
            except OSError:  # a full disk costs the trace, not the job, nor those that share its steps
                self.discard()

    def finish(self) -> bytes:
        """The root over all leaves; from here on they can be opened, if they are kept."""
        if self._file is not None:
            self._file.close()
            index = TraceIndex(
                self._job_id, self._dtype, self._leaf_size, tuple(self._timesteps), b"".join(self._hashes)
            )
            self._store.keep(index)
            self._file = None
        return merkle_root(self._hashes)

    def discard(self) -> None:
        """Keep nothing of this trace. Its root can still be had."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = None
