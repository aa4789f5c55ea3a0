"""The H.264 encoder of all renditions, and its name: a digest of what it makes of a few pictures drawn here.

    python -m compute.pipelines.encoder      prints the name

Two machines that print the same name make the same bytes of these pictures, which say version and settings too; another
version of the encoder, another preset or another setting prints another. Needs PyAV.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import av

from compute.renditions import SECOND

PRESET: Final = {"preset": "veryfast", "forced-idr": "1", "sc_threshold": "0"}
CLOCK: Final = Fraction(1, SECOND)
_DRAWN: Final = (320, 180)
_RATE: Final = 30
_PRINTED: Final = 20  # frames that the name is made of


def h264(width: int, height: int, bitrate: int, rate: Fraction, gop: int = 0, threads: int = 1) -> Any:
    """An encoder with the settings that all renditions have. ``gop`` 0: key frames only where they are asked for."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = CLOCK, rate
    encoder.bit_rate, encoder.gop_size, encoder.thread_count = bitrate, gop or 10_000, threads
    encoder.options = {**PRESET, "maxrate": str(bitrate * 3 // 2), "bufsize": str(bitrate * 2)}
    return encoder


def fingerprint() -> bytes:
    """32 bytes that name what this encoder makes."""
    encoder = h264(*_DRAWN, 300_000, Fraction(_RATE))
    digest = hashlib.sha256(b"pasar/encoder/1\0")
    for frame in (*drawn(_PRINTED), None):
        for packet in encoder.encode(frame):
            digest.update(len(bytes(packet)).to_bytes(4, "big") + bytes(packet))
    return digest.digest()


def drawn(count: int) -> Iterator[Any]:
    """Stripes that move, the same everywhere: whole numbers, and no scaler between."""
    wheel = bytes(range(256)) * 8
    for number in range(count):
        frame = av.VideoFrame(*_DRAWN, "yuv420p")
        for plane, speed in zip(frame.planes, (3, 2, 1), strict=True):
            rows = (wheel[(2 * y + speed * number) % 256 :][: plane.line_size] for y in range(plane.height))
            plane.update(b"".join(rows))
        frame.pts, frame.time_base = number * SECOND // _RATE, CLOCK
        yield frame


if __name__ == "__main__":
    print(fingerprint().hex())
