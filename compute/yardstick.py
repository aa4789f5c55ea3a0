"""The yardstick: the one job by which the work of a pipeline is measured and priced, and what its units count.

Every model of a pipeline is measured by the same job, so that two machines, or two pipelines of one, compare. Its
inputs are made here, from nothing. Pure: knows no model library, no clock and no price.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256

from compute.profiles import blocks_of, canvas_of, read_order
from compute.spec import (
    AUDIO_TO_TEXT,
    DENOISED,
    IMAGE_TO_IMAGE,
    IMAGE_TO_TEXT,
    IMAGE_TO_VIDEO,
    SEGMENT_ANYTHING,
    TEXT_TO_IMAGE,
    TRANSCODE,
    UPSCALE,
    Input,
    JobShape,
    JobSpec,
    Option,
    Verification,
)

STEPS = 20  # of what is denoised
SIDE = 128  # pixels of a picture that is worked on
FRAMES = 16
FILM, FILM_FRAMES, RENDITION = (320, 180), 60, "240p"
SOUND_MS, RATE = 10_000, 16_000
PROMPT = "a red circle on a blue background"
MAX_UNIT_PS = 2**53
_PICO = 10**12


@dataclass(frozen=True, slots=True)
class Measure:
    """What a unit of one pipeline is, and the job that stands for all of its jobs, in words."""

    unit: str
    job: str


MEASURES = {
    TEXT_TO_IMAGE: Measure(
        "an output pixel x a model evaluation; a guided step is two", f"the model's own side, {STEPS} guided steps"
    ),
    IMAGE_TO_IMAGE: Measure(
        "an output pixel x a model evaluation; a guided step is two", f"the model's own side, {STEPS} guided steps"
    ),
    IMAGE_TO_VIDEO: Measure("an output pixel x a frame", f"{FRAMES} frames of {SIDE} x {SIDE}"),
    UPSCALE: Measure("an output pixel", f"{SIDE} x {SIDE} made twice as large"),
    IMAGE_TO_TEXT: Measure("a pixel of the picture", f"a picture of {SIDE} x {SIDE}"),
    SEGMENT_ANYTHING: Measure("a pixel of the picture", f"a point in a picture of {SIDE} x {SIDE}"),
    TRANSCODE: Measure(
        "8 x 8 pixels of a frame: of each rendition, and of half the source",
        f"{FILM_FRAMES} frames of {FILM[0]} x {FILM[1]} to {RENDITION}",
    ),
    AUDIO_TO_TEXT: Measure("a millisecond of sound", f"{SOUND_MS // 1000} seconds of sound"),
}


def shape_of(pipeline: str, model: bytes, side: int) -> JobShape:
    """The yardstick without its inputs; ``side`` is the model's own. Raises KeyError for a pipeline without one."""
    if pipeline not in MEASURES:
        raise KeyError(pipeline)
    if pipeline in DENOISED:
        return JobShape(pipeline, model, side, side, STEPS, True, verification=Verification.RECEIPT)
    sides = {AUDIO_TO_TEXT: 0, UPSCALE: 2 * SIDE}.get(pipeline, SIDE)
    width, height = _canvas() if pipeline == TRANSCODE else (sides, sides)
    length = {AUDIO_TO_TEXT: SOUND_MS, IMAGE_TO_VIDEO: FRAMES, TRANSCODE: FILM_FRAMES}.get(pipeline, 0)
    return JobShape(pipeline, model, width, height, 1, False, verification=Verification.RECEIPT, length=length)


def _canvas() -> tuple[int, int]:
    ladder = read_order({"renditions": RENDITION}.get).ladder
    return canvas_of(blocks_of(ladder, *FILM))


def yardstick(shape: JobShape, salt: bytes, film: bytes = b"") -> tuple[JobSpec, tuple[bytes, ...]]:
    """The whole job of a shape of ``shape_of``, and its inputs. Another salt makes another job of it.

    ``film``: FILM_FRAMES of FILM, which takes a library to make; only transcode needs one.
    """
    files: tuple[bytes, ...] = ()
    if shape.pipeline == TRANSCODE:
        files = (film,)
    elif shape.pipeline == AUDIO_TO_TEXT:
        files = (sound(shape.length),)
    elif shape.pipeline != TEXT_TO_IMAGE:
        side = shape.width if shape.pipeline == IMAGE_TO_IMAGE else SIDE
        files = (picture(side),)
    media = {AUDIO_TO_TEXT: "audio/wav", TRANSCODE: "video/mp4"}.get(shape.pipeline, "image/png")
    inputs = tuple(Input(media, len(data), sha256(data).digest()) for data in files)
    told = {
        IMAGE_TO_VIDEO: ("motion", "pan-left"),
        UPSCALE: ("factor", "2"),
        TRANSCODE: ("renditions", RENDITION),
        SEGMENT_ANYTHING: ("points", f"[[{SIDE // 2}, {SIDE // 2}]]"),
    }
    options = tuple(Option(*pair) for name, pair in told.items() if name == shape.pipeline)
    asked = JobShape(
        shape.pipeline,
        shape.model,
        shape.width,
        shape.height,
        shape.steps,
        shape.guided,
        verification=shape.verification,
        input_bytes=sum(map(len, files)),
        length=shape.length,
    )
    words, guidance = (PROMPT, 4000) if shape.pipeline in DENOISED else ("", 0)
    return JobSpec(asked, words, "", guidance, 0, salt, inputs, options), files


def unit_ps(seconds: float, units: int) -> int:
    """Picoseconds of one unit, at least one: a cost is never nothing."""
    return max(1, min(MAX_UNIT_PS, round(seconds * _PICO / units)))


def picture(side: int) -> bytes:
    """A PNG of a red square on blue."""
    inside = range(side // 4, side - side // 4)
    blue, red = b"\x20\x40\xc0", b"\xc0\x20\x20"
    plain = b"\0" + blue * side
    marked = b"\0" + b"".join(red if x in inside else blue for x in range(side))
    rows = b"".join(marked if y in inside else plain for y in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in parts
    )


def sound(length_ms: int) -> bytes:
    """A WAV of a buzz that comes and goes: one channel of 16 bits at RATE."""
    count = length_ms * RATE // 1000
    loud = ((1 + at // 4000 % 2) * 3000 * (1 if at // 80 % 2 else -1) for at in range(count))
    data = struct.pack(f"<{count}h", *loud)
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVE" + head + b"data" + len(data).to_bytes(4, "little") + data
    return b"RIFF" + len(body).to_bytes(4, "little") + body
