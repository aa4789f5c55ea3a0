"""Small films for the tests, made with PyAV: moving stripes with a counter in their brightness, and a tone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

CLOCK = Fraction(1, 90_000)
GRAY_BLOCKS = b"\x28\xa2\x8a\x00"  # 16 x 16 pixels that are as before, in a JPEG's usual code


def film(
    times: Sequence[float],
    *,
    width: int = 320,
    height: int = 180,
    form: str = "mp4",
    sound: str = "",
    rotation: int = 0,
    start: float = 0.0,
    aspect: Fraction | None = None,
    encoder: str = "libx264",
    preset: str = "ultrafast",
) -> bytes:
    """A film with a frame at each of these seconds; ``sound`` names an audio encoder, or is empty."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        options = {"preset": preset, "crf": "20"} if encoder == "libx264" else {}
        pictures = out.add_stream(encoder, rate=30, options=options)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p" if not width % 2 else "yuv444p"
        pictures.time_base = pictures.codec_context.time_base = CLOCK
        pictures.gop_size = 30
        if aspect is not None:
            pictures.codec_context.sample_aspect_ratio = aspect
        if rotation:
            pictures.set_display_rotation(rotation)
        heard = out.add_stream(sound, rate=48_000, layout="stereo") if sound else None
        for number, at in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
            frame.pts, frame.time_base = round((start + at) * 90_000), CLOCK
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode(None))
        if heard is not None:
            for block in tone(times[-1] + 1 / 30, heard.codec_context.frame_size or 1024):
                block.pts += round(start * 48_000)
                out.mux(heard.encode(block))
            out.mux(heard.encode(None))
    return file.getvalue()


def sound_only(seconds: float, form: str = "mp3", encoder: str = "libmp3lame") -> bytes:
    """A tone without pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        heard = out.add_stream(encoder, rate=48_000, layout="stereo")
        for block in tone(seconds, heard.codec_context.frame_size or 1152):
            out.mux(heard.encode(block))
        out.mux(heard.encode(None))
    return file.getvalue()


def steady(count: int, fps: int = 30) -> list[float]:
    """Times of frames at an even pace."""
    return [number / fps for number in range(count)]


def picture(number: int, width: int, height: int) -> Any:
    """Stripes that move by a pixel a frame."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x + 2 * number) % 64 * 4, (y + number) % 64 * 4, (x + y) % 128 * 2], -1).astype(np.uint8)


def tone(seconds: float, block: int) -> list[Any]:
    """Frames of a tone of 440 Hz at 48 kHz."""
    count = int(seconds * 48_000) // block
    blocks = []
    for number in range(count):
        at = np.arange(number * block, (number + 1) * block) / 48_000
        wave = np.repeat((0.3 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)[None], 2, 0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, number * block, Fraction(1, 48_000)
        blocks.append(frame)
    return blocks


def seen(data: bytes) -> dict[str, Any]:
    """What a player finds in a file: frames, sides, times of the pictures, samples of sound and their codec."""
    found: dict[str, Any] = {"frames": 0, "times": [], "samples": 0, "codec": "", "size": None, "keys": []}
    with av.open(io.BytesIO(data)) as source:
        for packet in source.demux():
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    found["frames"] += 1
                    found["times"].append(float(frame.pts * frame.time_base))
                    found["size"] = (frame.width, frame.height)
                    found["keys"] += [float(frame.pts * frame.time_base)] * frame.key_frame
                else:
                    found["samples"] += frame.samples
                    found["codec"] = packet.stream.codec_context.name
    return found


def bomb(side: int = 16_000, frames: int = 2) -> bytes:
    """A film that says it is of 64 x 64, with pictures of this many pixels a side, each whole and right, all gray."""
    file = io.BytesIO()
    Image.new("YCbCr", (16, 16), (128, 128, 128)).save(file, "JPEG", subsampling=2)
    small, _, _ = file.getvalue().partition(GRAY_BLOCKS)  # all but the one group of blocks, and what ends it
    at = small.index(b"\xff\xc0") + 5
    picture = small[:at] + 2 * side.to_bytes(2, "big") + small[at + 4 :] + GRAY_BLOCKS * (side // 16) ** 2 + b"\xff\xd9"
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as out:
        stream = out.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for number in range(frames):
            packet = av.Packet(picture)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 30), number, number
            packet.duration, packet.is_keyframe = 1, True
            out.mux(packet)
    return file.getvalue()


def with_streams(count: int) -> bytes:
    """An MP4 whose head has this many tracks, all empty."""
    track = b"\x00\x00\x00\x08trak"
    return b"\x00\x00\x00\x10ftypisom\x00\x00\x00\x00" + (8 + 8 * count).to_bytes(4, "big") + b"moov" + track * count
