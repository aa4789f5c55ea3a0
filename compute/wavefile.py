"""Reads WAV: the one sound format that needs no library. Bounds are checked on the headers, before anything is made.

Pure; knows frames and their encoding, no resampling and no model.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from p2p.errors import Refused

MAX_CHUNKS = 64  # before the sound; real files have a handful
MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 4_000, 192_000
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# (format, bits): how numpy reads one sample; 24 bits have no type of their own and are told apart by width
_ENCODINGS = {
    (_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 24): "<i3", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wav:
    """Where the sound lies in the file. Invariant: ``start + length`` is within it, and ``length`` is whole frames."""

    encoding: str
    rate: int
    channels: int
    start: int
    length: int

    @property
    def frames(self) -> int:
        """Moments in time: samples of one channel."""
        return self.length // (self.channels * int(self.encoding[-1]))


def is_wav(data: bytes) -> bool:
    """Whether it says so in its first bytes."""
    return data[:4] == b"RIFF" and data[8:12] == b"WAVE"


def read_wav(data: bytes) -> Wav:
    """The headers. Raises Refused ``BAD_SOUND`` for what is no whole WAV, or one of an encoding that is not read."""
    told: tuple[str, int, int] | None = None
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            break
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > len(data):
            raise Refused("BAD_SOUND", "a part is longer than the file", have=len(data) - at - 8, need=size)
        if kind == b"fmt ":
            told = _format(data[at + 8 : at + 8 + size])
        elif kind == b"data" and told is not None:
            encoding, rate, channels = told
            frame = channels * int(encoding[-1])
            return Wav(encoding, rate, channels, at + 8, size - size % frame)
        at += 8 + size + size % 2
    raise Refused("BAD_SOUND", "a WAV without a format or without sound")


def _format(body: bytes) -> tuple[str, int, int]:
    if len(body) < 16:
        raise Refused("BAD_SOUND", "the format is cut off")
    kind, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == _EXTENSIBLE and len(body) >= 26:
        kind = int.from_bytes(body[24:26], "little")
    encoding = _ENCODINGS.get((kind, bits))
    if encoding is None:
        raise Refused("BAD_SOUND", "an encoding that is not read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise Refused("BAD_SOUND", "channels", have=channels, need=MAX_CHANNELS)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Refused("BAD_SOUND", "samples in a second", have=rate, need=MAX_RATE)
    if frame != channels * bits // 8:
        raise Refused("BAD_SOUND", "the format contradicts itself")
    return encoding, rate, channels
