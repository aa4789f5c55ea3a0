"""How large and how long a film of one's own is, before it is sent to somebody: by its header, else by PyAV.

Reads; decodes nothing. Not for a stranger's film, which is looked at in a child of its own
(``compute/pipelines/transcodechild.py``). Shell: imports PyAV where it is there and needed.
"""

from __future__ import annotations

import importlib.util
import io
from typing import Final

from compute.filmheader import FilmSize, claimed_film
from p2p.errors import Misconfigured

FILMS: Final = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".ts": "video/mp2t",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
}
NEEDS_AV: Final = "needs PyAV: pip install 'pasar[video]'"


def film_size(data: bytes) -> FilmSize:
    """Sides, frames and length of a film. Raises Misconfigured for what is none, or cannot be measured here."""
    found = claimed_film(data)
    if found is not None:
        return found
    if importlib.util.find_spec("av") is None:
        raise Misconfigured(f"file: to measure a film that is no plain MP4 {NEEDS_AV}")
    return _by_packets(data)


def _by_packets(data: bytes) -> FilmSize:
    import av

    try:
        with av.open(io.BytesIO(data)) as source:
            video = next(iter(source.streams.video), None)
            if video is None:
                raise Misconfigured("file: it has no pictures")
            frames, first, last = 0, None, 0.0
            for packet in source.demux(video):
                if packet.size and packet.pts is not None:
                    at = float(packet.pts * packet.time_base)
                    first = at if first is None else min(first, at)
                    last = max(last, at + float((packet.duration or 0) * packet.time_base))
                frames += bool(packet.size)
            found = FilmSize(video.width, video.height, frames, round((last - (first or 0.0)) * 1000))
    except (av.error.FFmpegError, OSError, ValueError) as exc:
        raise Misconfigured(f"file: no film that can be read: {type(exc).__name__}") from exc
    if not frames or not found.width:
        raise Misconfigured("file: it has no pictures")
    return found
