"""Keeping: what must survive a restart in the middle of a delivery and is too large for the journal: files with a note.

A seller keeps sealed files with what a Receipt will say of them (the key is in the session's own record); a gateway
keeps results until their client has them. Files are whole or absent: written beside, synced, renamed. Knows no stream.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import trio

from compute.digest import ArtifactDigest
from compute.safety import Safety
from compute.work import JobResult
from market.offer import Dtype
from market.receipt import Times
from p2p.codec import Hash, Size, decode_as, encode, message
from p2p.errors import MalformedMessage, Unavailable, UnknownMessage

MAX_FILES = 16
_limiter = trio.CapacityLimiter(2)

T = TypeVar("T")


@message("kept-work", 1)
@dataclass(frozen=True, slots=True)
class KeptWork:
    """What a Receipt needs of a finished job; its sealed files lie beside it."""

    dtype: Dtype
    trace_root: Hash
    artifacts: Annotated[tuple[ArtifactDigest, ...], Size(1, MAX_FILES)]
    times: Times
    safety: Safety | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that was worked here in this life of the process, with its times."""

    result: JobResult
    times: Times


class Keeping:
    """``put`` before ``get``; what was put twice under one name is what was put last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, name: str, note: object, files: Sequence[bytes]) -> None:
        """On disk when this returns, the note last. ``note`` is a registered message.

        Raises Unavailable when the disk does not take it; nothing is kept under this name then.
        """
        await trio.to_thread.run_sync(self._put, name, encode(note), files, limiter=_limiter)

    async def get(self, name: str, kind: type[T]) -> tuple[T, list[bytes]] | None:
        """What was put, or None when there is nothing whole of this kind."""
        return await trio.to_thread.run_sync(self._get, name, kind, limiter=_limiter)

    async def note(self, name: str, kind: type[T]) -> T | None:
        """The note alone, or None when there is none of this kind."""
        return await trio.to_thread.run_sync(self._note, name, kind, limiter=_limiter)

    async def read(self, name: str, index: int, offset: int, length: int) -> bytes:
        """A piece of one file. Raises Unavailable when it is not there any more."""
        path = self._folder / f"{name}.{index}"
        return await trio.to_thread.run_sync(_read, path, offset, length, limiter=_limiter)

    async def drop(self, name: str) -> None:
        """Forget it; nothing when there is nothing. What the disk will not let go is still there for the next try."""
        await trio.to_thread.run_sync(self._drop, name, limiter=_limiter)

    async def names(self) -> list[tuple[str, float]]:
        """Everything that is kept, each with the calendar second it was put."""
        return await trio.to_thread.run_sync(self._names, limiter=_limiter)

    def _put(self, name: str, note: bytes, files: Sequence[bytes]) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for index, data in enumerate(files):
                _write(self._folder / f"{name}.{index}", data)
            for path in self._files(name)[len(files) :]:  # of a longer result that was put under this name before
                path.unlink()
            _write(self._folder / f"{name}.note", note)
        except OSError as exc:
            self._drop(name)  # half of it only takes room
            raise Unavailable(f"the disk does not take a result: {exc.strerror}") from exc

    def _get(self, name: str, kind: type[T]) -> tuple[T, list[bytes]] | None:
        note = self._note(name, kind)
        if note is None:
            return None
        try:
            return note, [path.read_bytes() for path in self._files(name)]
        except OSError:
            return None

    def _files(self, name: str) -> list[Path]:
        count = sum(1 for path in self._folder.glob(f"{name}.*") if path.suffix[1:].isdigit())
        return [self._folder / f"{name}.{index}" for index in range(count)]

    def _note(self, name: str, kind: type[T]) -> T | None:
        try:
            return decode_as(kind, (self._folder / f"{name}.note").read_bytes())
        except (OSError, MalformedMessage, UnknownMessage):
            return None

    def _drop(self, name: str) -> None:
        for path in self._folder.glob(f"{name}.*"):
            with suppress(OSError):
                path.unlink()

    def _names(self) -> list[tuple[str, float]]:
        found = []
        for path in self._folder.glob("*.note"):
            with suppress(OSError):  # dropped meanwhile, by another thread
                found.append((path.stem, path.stat().st_mtime))
        return found


def name_of(job_id: bytes, attempt: int = 0) -> str:
    """The name of what is kept for one attempt, or for a job as a whole."""
    return f"{job_id.hex()}-{attempt}"


def inputs_of(job_id: bytes, attempt: int = 0) -> str:
    """The name of the inputs that are kept for it."""
    return f"{name_of(job_id, attempt)}-in"


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            piece = file.read(length)
    except OSError as exc:
        raise Unavailable(f"a kept file cannot be read: {exc.strerror}") from exc
    if len(piece) != length:
        raise Unavailable("a kept file is shorter than it was")
    return piece
