"""Where a live stream's segments come from: a folder in which they appear, or a film cut here at the pace of a clock.

Shell: looks into folders, reads files, cuts in a thread. Knows no market.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from compute.filmcutting import SourceSegment, cut_film, measure
from compute.filmprobe import FILMS
from compute.spec import MAX_INPUT
from p2p.errors import Misconfigured

log = structlog.get_logger(__name__)

LOOK_S = 0.1
SETTLE_S = 1.5  # without a change, and nothing after it: a segment that nobody writes to any more
_DIGITS = re.compile(r"(\d{1,18})")
Key = tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """A segment, and since when it was there, on trio's clock. None: there was one, and it cannot be used."""

    segment: SourceSegment | None
    since: float


class Source(Protocol):
    """Gives segments in order."""

    async def next(self) -> Ready | None:
        """The next one as soon as it is there; None when no more will come."""
        ...


class FilmSource:
    """A film in segments of at least so many seconds. ``paced``: none before a camera would have it whole."""

    def __init__(self, path: Path, seconds: float, *, paced: bool = True) -> None:
        self._cuts: Iterator[SourceSegment] = cut_film(path, seconds)
        self._paced, self._begun, self._ticks = paced, 0.0, 0

    async def next(self) -> Ready | None:
        if not self._begun:
            self._begun = trio.current_time()
        segment = await trio.to_thread.run_sync(next, self._cuts, None)
        if segment is None:
            return None
        self._ticks += segment.length
        due = self._begun + self._ticks / 90_000
        if self._paced:
            await trio.sleep_until(due)
        return Ready(segment, due if self._paced else trio.current_time())


class FolderSource:
    """Files that appear in a folder, in the order of their names, numbers counted as such.

    A file is taken when there is one after it, or when it has not changed for a while; at once where ``whole`` says
    that files are put there by renaming them. ``idle_s`` without a new one is the end, 0 never.
    """

    def __init__(self, folder: Path, idle_s: float, *, whole: bool = False) -> None:
        self._folder, self._idle_s, self._whole = folder, idle_s, whole
        self._last: Key = ()

    async def next(self) -> Ready | None:
        begun = trio.current_time()
        while True:
            path = await trio.to_thread.run_sync(self._look)
            if path is not None:
                return await self._take(path)
            if self._idle_s and trio.current_time() - begun > self._idle_s:
                return None
            await trio.sleep(LOOK_S)

    def _look(self) -> Path | None:
        """The first file after the last one, once it is whole."""
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix.lower() in FILMS]
            later = sorted((path for path in paths if order(path.name) > self._last), key=lambda p: order(p.name))
            if not later:
                return None
            settled = self._whole or len(later) > 1 or time.time() - later[0].stat().st_mtime > SETTLE_S
        except OSError as exc:
            raise Misconfigured(f"source: {self._folder} cannot be read: {exc.strerror}") from exc
        return later[0] if settled else None

    async def _take(self, path: Path) -> Ready:
        self._last = order(path.name)
        segment, age = await trio.to_thread.run_sync(_read, path)
        return Ready(segment, trio.current_time() - age)


def order(name: str) -> Key:
    """Names as people count: seg9 before seg10."""
    parts = _DIGITS.split(name)
    return tuple((int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts))


def _read(path: Path) -> tuple[SourceSegment | None, float]:
    """The segment, None for one that cannot be used, and for how many seconds it was there."""
    try:
        found = path.stat()
        age = max(0.0, time.time() - found.st_mtime)
        if found.st_size > MAX_INPUT:
            raise Misconfigured(f"larger than {MAX_INPUT} bytes")
        return measure(path.read_bytes(), path.suffix.lower()), age
    except (Misconfigured, OSError) as exc:
        log.warning("a segment is passed over", file=path.name, reason=str(exc))
        return None, 0.0
