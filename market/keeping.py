"""Keeping: what a seller keeps of a finished job on disk, so that a restart in the middle of a delivery loses nothing.

One folder holds, for each attempt, the sealed files and a note of what a Receipt will say of them; the key is in the
session's own record. Files are whole or absent: written beside, synced, renamed. Knows no stream and no money.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import trio

from compute.work import JobResult
from market.offer import Dtype
from market.receipt import ArtifactDigest, Times
from p2p.codec import Hash, Range, Size, decode_as, encode, message
from p2p.errors import MalformedMessage, UnknownMessage

MAX_FILES = 16
_limiter = trio.CapacityLimiter(2)


@message("kept-work", 1)
@dataclass(frozen=True, slots=True)
class KeptWork:
    """What a Receipt needs of a finished job; ``files`` sealed files lie beside it."""

    dtype: Dtype
    trace_root: Hash
    artifacts: Annotated[tuple[ArtifactDigest, ...], Size(1, MAX_FILES)]
    times: Times
    files: Annotated[int, Range(1, MAX_FILES)]


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that was worked here in this life of the process, with its times."""

    result: JobResult
    times: Times


class Keeping:
    """``put`` before ``get``; what was put twice is what was put last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, job_id: bytes, attempt: int, work: KeptWork, ciphers: list[bytes]) -> None:
        """On disk when this returns, the note last."""
        await trio.to_thread.run_sync(self._put, _name(job_id, attempt), work, ciphers, limiter=_limiter)

    async def get(self, job_id: bytes, attempt: int) -> tuple[KeptWork, list[bytes]] | None:
        """What was put, or None when there is nothing whole."""
        return await trio.to_thread.run_sync(self._get, _name(job_id, attempt), limiter=_limiter)

    async def drop(self, job_id: bytes, attempt: int) -> None:
        """Forget it; nothing when there is nothing."""
        await trio.to_thread.run_sync(self._drop, _name(job_id, attempt), limiter=_limiter)

    def _put(self, name: str, work: KeptWork, ciphers: list[bytes]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for index, cipher in enumerate(ciphers):
            _write(self._folder / f"{name}.{index}", cipher)
        _write(self._folder / f"{name}.work", encode(work))

    def _get(self, name: str) -> tuple[KeptWork, list[bytes]] | None:
        try:
            work = decode_as(KeptWork, (self._folder / f"{name}.work").read_bytes())
            return work, [(self._folder / f"{name}.{index}").read_bytes() for index in range(work.files)]
        except (OSError, MalformedMessage, UnknownMessage):
            return None

    def _drop(self, name: str) -> None:
        for path in self._folder.glob(f"{name}.*"):
            path.unlink(missing_ok=True)


def _name(job_id: bytes, attempt: int) -> str:
    return f"{job_id.hex()}-{attempt}"


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
