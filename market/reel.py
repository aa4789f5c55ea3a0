"""Reel: a live stream on its way through a market, in the order of its source.

    cut -> in flight -> came or failed -> listed, when all before it have come or failed

Pieces come back in any order; a playlist tells of them in order, and never takes back what it told. Pure: time is
``now`` in seconds; knows no bid and no file beyond its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compute.profiles import MAX_START
from compute.renditions import SECOND, Ladder, Variant, fitted, master_playlist, media_playlist

MAX_PIECE_MS = 20_000
KEPT_BEHIND = 3  # windows of files that stay after they left the playlist: a slow player still asks for them


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment of the source: its number, when it begins and how long it lasts, in ticks; ``ready`` when it came.

    ``anew``: it does not go on from the piece before.
    """

    number: int
    start: int
    length: int
    ready: float
    anew: bool = False

    @property
    def milliseconds(self) -> int:
        """How long it lasts."""
        return round(self.length * 1000 / SECOND)

    def file(self, rendition: str) -> str:
        """What a rendition of it is called."""
        return f"{rendition}_{self.number:06d}.ts"


@dataclass(frozen=True, slots=True)
class Told:
    """How a stream stands: pieces listed and lost, seconds listed, and how far behind its source the newest was."""

    listed: int
    lost: int
    seconds: float
    lag_s: float
    worst_lag_s: float


@dataclass(slots=True)
class Reel:
    """``window`` pieces are in a playlist at most, 0: all. Invariant: numbers grow, and each is settled once.

    The first piece says how long others may be: half as long again, since players were promised a target duration.
    """

    ladder: Ladder
    window: int
    longest_ms: int = 0
    ended: bool = False
    _next: int = 0
    _clock: int = 0
    _anew: bool = False
    _flying: dict[int, Piece] = field(default_factory=dict)
    _came: dict[int, Piece | None] = field(default_factory=dict)  # settled, and waiting for their turn
    _turn: int = 0
    _list: list[Piece] = field(default_factory=list)
    _behind: list[Piece] = field(default_factory=list)
    _dropped: int = 0
    _breaks_dropped: int = 0
    _lost: int = 0
    _listed: int = 0
    _ticks: int = 0
    _lag: float = 0.0
    _worst: float = 0.0
    _gap: bool = False
    _peaks: dict[str, int] = field(default_factory=dict)
    _picture: tuple[int, int] = (0, 0)

    @property
    def in_flight(self) -> int:
        """Pieces that are neither here nor lost."""
        return len(self._flying)

    def cut(self, length: int, picture: tuple[int, int], now: float) -> Piece | None:
        """The next piece of the source, so many ticks long; None for one that is too long, which is lost."""
        self.longest_ms = self.longest_ms or min(MAX_PIECE_MS, length * 1500 // SECOND)
        anew = self._clock + length > MAX_START
        if anew:
            self._clock = 0  # the clock of a transport stream ends; players are told
        piece = Piece(self._next, self._clock, length, now, anew)
        self._next, self._clock, self._picture = self._next + 1, self._clock + length, picture
        if not 0 < piece.milliseconds <= self.longest_ms:
            self._came[piece.number] = None
            return None
        self._flying[piece.number] = piece
        return piece

    def lose(self) -> None:
        """A piece that was there and cannot be read."""
        self._came[self._next] = None
        self._next += 1

    def came(self, number: int, sizes: Mapping[str, int], now: float) -> tuple[Piece, ...]:
        """A piece is here, its renditions of so many bytes; the pieces that are listed by that, in order."""
        piece = self._flying.pop(number, None)
        if piece is None:
            return ()
        for name, size in sizes.items():
            self._peaks[name] = max(self._peaks.get(name, 0), size * 8 * SECOND // piece.length)
        self._came[number] = piece
        return self._in_turn(now)

    def failed(self, number: int, now: float) -> tuple[Piece, ...]:
        """A piece will not come; the pieces that are listed by that."""
        if self._flying.pop(number, None) is None:
            return ()
        self._came[number] = None
        return self._in_turn(now)

    def end(self) -> None:
        """Nothing more is cut: the playlists say so once all is settled."""
        self.ended = True

    def playlists(self) -> dict[str, str]:
        """Every playlist as it reads now, by rendition; empty before there is anything to list."""
        if not self._list:
            return {}
        breaks = [place for place, piece in enumerate(self._list) if piece.anew]
        return {
            one.name: media_playlist(
                [(piece.file(one.name), piece.milliseconds) for piece in self._list],
                ended=self.ended and not self._flying,
                first=self._dropped,
                longest_ms=self.longest_ms,
                breaks=breaks,
                breaks_before=self._breaks_dropped,
            )
            for one in self.ladder.renditions
        }

    def master(self) -> str:
        """The playlist of playlists."""
        return master_playlist(
            [
                Variant(one.name, *fitted(*self._picture, one), max(one.bitrate, self._peaks.get(one.name, 0)))
                for one in self.ladder.renditions
            ]
        )

    def forget(self) -> tuple[str, ...]:
        """The files that no player asks for any more, each told once."""
        most = self.window * KEPT_BEHIND
        gone, self._behind = self._behind[: max(0, len(self._behind) - most)], self._behind[-most:] if most else []
        return tuple(piece.file(one.name) for piece in gone for one in self.ladder.renditions)

    def told(self) -> Told:
        """How it stands."""
        return Told(self._listed, self._lost, self._ticks / SECOND, self._lag, self._worst)

    def _in_turn(self, now: float) -> tuple[Piece, ...]:
        listed = []
        while self._turn in self._came:
            piece = self._came.pop(self._turn)
            self._turn += 1
            if piece is None:
                self._lost, self._gap = self._lost + 1, self._listed > 0
            else:
                listed.append(self._enlist(piece, now))
        return tuple(listed)

    def _enlist(self, piece: Piece, now: float) -> Piece:
        if self._gap and not piece.anew:
            piece = Piece(piece.number, piece.start, piece.length, piece.ready, anew=True)
        self._gap = False
        self._list.append(piece)
        self._listed, self._ticks = self._listed + 1, self._ticks + piece.length
        self._lag = max(0.0, now - piece.ready)
        self._worst = max(self._worst, self._lag)
        while self.window and len(self._list) > self.window:
            old = self._list.pop(0)
            self._dropped, self._breaks_dropped = self._dropped + 1, self._breaks_dropped + old.anew
            self._behind.append(old)
        return piece
