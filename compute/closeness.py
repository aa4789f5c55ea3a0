"""How close a delivered file is to one that a second run of the same job made, in the units of ``tolerance.Bound``.

Pictures pixel by pixel, films by their worst frame, JSON value by value, other text line by line. A delivered file is a
stranger's: it is never decoded larger than ours. Shell: decodes files. Knows no job.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compute.checkverdict import FAR
from compute.spec import Artifact
from compute.strictjson import check_depth
from compute.work import Replay
from p2p.errors import PasarError

_ROWS = 256  # of a picture at a time
_MILLION = 10**6

NOWHERE = Replay(FAR, FAR)
Pixels: TypeAlias = NDArray[np.uint8]


def closeness(delivered: Artifact, made: Artifact) -> Replay:
    """Zero for the same bytes. Never raises for what a file holds."""
    if delivered.data == made.data and delivered.media_type == made.media_type:
        return Replay(0, 0)
    if delivered.media_type != made.media_type:
        return NOWHERE
    try:
        if made.media_type.startswith("image/"):
            return _pictures(delivered.data, made.data)
        if made.media_type.startswith("video/"):
            return _films(delivered.data, made.data)
        if made.media_type == "application/json":
            return _values(delivered.data, made.data)
        return _lines(delivered.data, made.data)
    except (OSError, ValueError, OverflowError, SyntaxError, RecursionError, PasarError, Image.DecompressionBombError):
        return NOWHERE


def _pictures(delivered: bytes, made: bytes) -> Replay:
    ours = Image.open(io.BytesIO(made))
    with ours, Image.open(io.BytesIO(delivered), formats=(ours.format or "PNG",)) as their:
        if their.size != ours.size or their.mode != ours.mode:
            return NOWHERE
        return _apart(np.asarray(their), np.asarray(ours))


def _apart(one: Pixels, other: Pixels) -> Replay:
    """The largest difference of two pictures in fractions of white, and the root of the mean square."""
    largest, total = 0, 0
    for top in range(0, len(one), _ROWS):
        gap = one[top : top + _ROWS].astype(np.int32) - other[top : top + _ROWS].astype(np.int32)
        largest = max(largest, int(np.abs(gap).max()))
        total += int((gap * gap).sum(dtype=np.int64))
    rms = (total / max(1, one.size)) ** 0.5 / 255
    return Replay(largest * 10**9 // 255, int(rms * _MILLION))


def _films(delivered: bytes, made: bytes) -> Replay:
    worst, theirs = Replay(0, 0), _frames(delivered)
    for ours in _frames(made):
        frame = next(theirs, None)
        if frame is None or frame.shape != ours.shape:
            return NOWHERE
        apart = _apart(frame, ours)
        worst = Replay(max(worst.max_diff_nano, apart.max_diff_nano), max(worst.relative_ppm, apart.relative_ppm))
    return worst if next(theirs, None) is None else NOWHERE


def _frames(data: bytes) -> Iterator[Pixels]:
    """Frames of the first picture stream, one at a time. Raises OSError, ValueError for what is no film."""
    import av

    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as file:
            for frame in file.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"))
    except (av.error.FFmpegError, IndexError) as exc:
        raise ValueError("no film") from exc


def _values(delivered: bytes, made: bytes) -> Replay:
    """Numbers by the largest difference, relative to their size or to one; whatever else differs is counted."""
    check_depth(delivered, "the delivered file")
    theirs, ours = list(_leaves(json.loads(delivered))), list(_leaves(json.loads(made)))
    if len(theirs) != len(ours):
        return NOWHERE
    largest, unlike = 0.0, 0
    for (path, value), (place, wanted) in zip(theirs, ours, strict=True):
        if path == place and _is_number(value) and _is_number(wanted):
            largest = max(largest, abs(value - wanted) / max(1.0, abs(wanted)))
        elif (path, value) != (place, wanted):
            unlike += 1
    if not math.isfinite(largest):
        return NOWHERE
    return Replay(min(FAR, int(largest * 1e9)), unlike * _MILLION // max(1, len(ours)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, place))
    else:
        yield path, value


def _lines(delivered: bytes, made: bytes) -> Replay:
    theirs, ours = delivered.splitlines(), made.splitlines()
    apart = sum(one != other for one, other in zip(theirs, ours, strict=False)) + abs(len(theirs) - len(ours))
    return Replay(0, min(_MILLION, apart * _MILLION // max(1, len(ours))))
