"""Files made to hurt whoever opens them, small as they are: pictures and sounds that lie, are cut off, or never end."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SPEECH = sorted((Path(__file__).parents[1] / "vectors" / "speech").glob("*.wav"))[0].read_bytes()
SIDE = 64
_SIGNATURE = 8 + 25  # of a PNG, and its first chunk


def picture(side: int = SIDE, name: str = "PNG", **options: Any) -> bytes:
    """A whole one: a red square on white."""
    drawn, out = Image.new("RGB", (side, side), "white"), io.BytesIO()
    drawn.paste((220, 20, 20), (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    drawn.save(out, name, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """One part of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def picture_with(*chunks: bytes) -> bytes:
    """A whole PNG with these chunks before its pixels."""
    plain = picture()
    return plain[:_SIGNATURE] + b"".join(chunks) + plain[_SIGNATURE:]


def picture_that_claims(width: int, height: int) -> bytes:
    """A PNG of this size by its header, with a row or two in it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND")


def picture_with_words(megabytes: int) -> bytes:
    """A PNG whose texts unpack to so much."""
    return picture_with(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * megabytes)


def picture_of_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times: each costs a decoder a pass over the whole picture."""
    whole = picture(name="JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + whole[-2:]


def gif_of_frames(frames: int) -> bytes:
    """A GIF of one pixel that goes on and on."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0x80, 0, 0) + bytes(6) + frame * frames + b";"


def apng_of_frames(frames: int) -> bytes:
    """A PNG that says that it moves for so many frames, and holds one."""
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, SIDE, SIDE, 0, 0, 1, 10, 0, 0))
    return picture_with(chunk(b"acTL", struct.pack(">II", frames, 0)), control)


def wav(body: bytes, *, rate: int = 16_000, channels: int = 1, bits: int = 16, kind: int = 1, size: int = -1) -> bytes:
    """A WAV; ``size`` is what its header says of the body."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * frame % 2**32, frame, bits)
    said = len(body) if size < 0 else size
    parts = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", said) + body
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WAVE" + parts


def silence(seconds: float, rate: int = 192_000, layout: str = "7.1") -> bytes:
    """Very little FLAC for very much sound."""
    import av

    out, channels = io.BytesIO(), {"7.1": 8, "mono": 1}[layout]
    with av.open(out, "w", format="flac") as file:
        stream = file.add_stream("flac", rate=rate, layout=layout, format="s16")
        nothing = av.AudioFrame.from_ndarray(np.zeros((1, channels * 4096), np.int16), "s16", layout)
        nothing.sample_rate = rate
        for block in range(int(seconds * rate) // 4096):
            nothing.pts = block * 4096
            file.mux(stream.encode(nothing))
        file.mux(stream.encode(None))
    return out.getvalue()


def sound_beside_a_picture(side: int) -> bytes:
    """A tone in a film of one very large picture, which whoever looks into the file would like to see."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mov") as file:
        film = file.add_stream("png", rate=1)
        film.width = film.height = side
        film.pix_fmt = "gray"
        heard = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        file.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((side, side), np.uint8), format="gray")))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), "s16", "mono")
        tone.sample_rate = 16_000
        file.mux(heard.encode(tone))
        file.mux([*film.encode(None), *heard.encode(None)])
    return out.getvalue()
