"""What a transcoding job asks for in its options, what it must pay for, and what its files are called.

Read by whoever asks, to name a price, and by whoever works, to hold the job against its film. Pure; knows no codec.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import isqrt
from typing import Final

from compute.renditions import MASTER, MAX_SEGMENT_MS, SECOND, Ladder, Rendition
from compute.spec import MAX_SIDE
from p2p.errors import Refused

OPTIONS: Final = ("form", "renditions", "segment", "start")
PROFILES: Final = {
    "144p": Rendition("144p", 256, 144, 150_000),
    "240p": Rendition("240p", 426, 240, 300_000),
    "360p": Rendition("360p", 640, 360, 600_000),
    "480p": Rendition("480p", 854, 480, 1_200_000),
    "720p": Rendition("720p", 1280, 720, 2_500_000),
    "1080p": Rendition("1080p", 1920, 1080, 5_000_000),
}
USUAL: Final = "360p,240p"
MAX_IN_PLAYLISTS: Final = 7  # renditions: two files each and the master playlist are all that a result may have
MAX_START: Final = 24 * 3600 * SECOND  # ticks; the clock of a transport stream goes round two and a half hours later
BLOCK: Final = 64  # pixels that a price counts as one, so that a second of work costs about what it does elsewhere
_SEGMENT_MS: Final = 2000
_OWN = re.compile(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})@([1-9][0-9]{1,4})k")


class Form(StrEnum):
    """In which files the renditions come: a file each, playlists with a file each, or one segment each of a stream."""

    MP4 = "mp4"
    HLS = "hls"
    SEGMENT = "segment"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made. ``start`` is when the first picture is shown, in ticks; of a segment only."""

    ladder: Ladder
    form: Form
    start: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What the files of a result are called, in their order; the playlists use these names."""
        names = [one.name for one in self.ladder.renditions]
        if self.form is Form.MP4:
            return tuple(f"{name}.mp4" for name in names)
        if self.form is Form.SEGMENT:
            return tuple(f"{name}.ts" for name in names)
        return (MASTER, *(file for name in names for file in (f"{name}.m3u8", f"{name}.ts")))


def read_order(option: Callable[[str, str], str]) -> Order:
    """The order in the options of a job; ``option(name, default)`` gives their values. Raises Refused BAD_INPUT."""
    try:
        form = Form(option("form", Form.MP4.value))
    except ValueError:
        raise Refused("BAD_INPUT", f"form is one of {', '.join(Form)}") from None
    renditions = tuple(_rendition(name.strip()) for name in option("renditions", USUAL).split(","))
    start = _number("start", option("start", "0"), MAX_START)
    if form is not Form.SEGMENT and start:
        raise Refused("BAD_INPUT", "only a segment has a start")
    if form is Form.HLS and len(renditions) > MAX_IN_PLAYLISTS:
        raise Refused("BAD_INPUT", "too many renditions for playlists", have=MAX_IN_PLAYLISTS, need=len(renditions))
    usual = MAX_SEGMENT_MS if form is Form.SEGMENT else _SEGMENT_MS
    try:
        ladder = Ladder(renditions, _number("segment", option("segment", str(usual)), MAX_SEGMENT_MS))
    except Refused as exc:
        raise Refused("BAD_INPUT", exc.hint or exc.code, have=exc.have, need=exc.need) from exc
    return Order(ladder, form, start)


def blocks_of(ladder: Ladder, width: int, height: int) -> int:
    """What one frame costs, in blocks of 8 x 8 pixels: every rendition's box, and half of the source's picture.

    The source is decoded once and read by every scaler. A box counts whole, whatever the source's shape: so the price
    is known without the film.
    """
    pixels = sum(one.width * one.height for one in ladder.renditions) + (width * height + 1) // 2
    return -(-pixels // BLOCK)


def canvas_of(blocks: int) -> tuple[int, int]:
    """Two sides whose product is so many blocks, or a few more: how a job names them. Raises Refused BAD_INPUT."""
    width = isqrt(max(1, blocks) - 1) + 1
    if width > MAX_SIDE:
        raise Refused("BAD_INPUT", "blocks of source and renditions together", have=MAX_SIDE**2, need=blocks)
    return width, -(-blocks // width)


def _rendition(text: str) -> Rendition:
    if text in PROFILES:
        return PROFILES[text]
    found = _OWN.fullmatch(text)
    if found is None:
        there = ", ".join(PROFILES)
        raise Refused("BAD_INPUT", f"a rendition is one of {there}, or WIDTHxHEIGHT@RATEk, not {text[:24]!r}")
    width, height, rate = map(int, found.groups())
    try:
        return Rendition(f"{width}x{height}", width, height, rate * 1000)
    except Refused as exc:
        raise Refused("BAD_INPUT", exc.hint or exc.code) from exc


def _number(name: str, text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise Refused("BAD_INPUT", f"{name} is a whole number, {most} at most")
    return int(text)
