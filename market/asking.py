"""What a person names on the command line for a pipeline that works on a file: read, measured, and put into a wish.

A job is priced by its shape, which the seller's worker holds against the file; so the client looks into it first.
Pictures are measured by their header, sounds and films by theirs. Shell: reads files. Knows no gateway.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from compute.pictureheader import claimed
from compute.spec import (
    AUDIO_TO_TEXT,
    IMAGE_TO_IMAGE,
    IMAGE_TO_TEXT,
    IMAGE_TO_VIDEO,
    MAX_DENOISED_SIDE,
    MAX_INPUT,
    MAX_OPTIONS,
    MIN_SIDE,
    SEGMENT_ANYTHING,
    SIDE_STEP,
    TEXT_TO_IMAGE,
    TRANSCODE,
    UPSCALE,
    Input,
    Option,
)
from market.askingfilm import on_film, order_of
from market.client import Wish
from p2p.errors import Misconfigured

PICTURES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
SOUNDS = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}
UNMEASURED_MS = 600_000  # what a sound is taken for whose header we do not read: its price is a bound, not its length
ON_PICTURES = frozenset({IMAGE_TO_IMAGE, IMAGE_TO_TEXT, SEGMENT_ANYTHING, UPSCALE, IMAGE_TO_VIDEO})
SHOWN = frozenset({TEXT_TO_IMAGE, IMAGE_TO_IMAGE, IMAGE_TO_VIDEO})  # that can be seen in the making
SERVED = frozenset({TEXT_TO_IMAGE, AUDIO_TO_TEXT, TRANSCODE, *ON_PICTURES})
FRAMES = 16  # of a clip, where nobody says how many: --frames
FACTORS = {"": 2, "2": 2, "4": 4}  # of what is made larger
STRENGTH = 0.6  # of a picture that is drawn over, where nobody says how strong: --set strength=


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish with the bytes of its inputs, and the names of the files that come of it where its pipeline has some."""

    wish: Wish
    files: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()


def ask(pipeline: str, wish: Wish, file: Path | None, options: Sequence[str], *, previews: bool = False) -> Asked:
    """The wish of this pipeline on this file. Raises Misconfigured for what cannot be one, in words for a terminal.

    With ``previews`` the work is looked at after each step, as often as its worker has time for it.
    """
    if pipeline not in SERVED:
        raise Misconfigured(f"pipeline: {pipeline[:64]!r} is none; there are {', '.join(sorted(SERVED))}")
    if previews and pipeline not in SHOWN:
        raise Misconfigured(f"previews: of {', '.join(sorted(SHOWN))}, not of {pipeline}")
    if previews and not any(text.startswith("previews=") for text in options):
        options = [*options, "previews=1"]
    wish = replace(wish, options=options_of(options))
    if pipeline == TEXT_TO_IMAGE:
        if file is not None:
            raise Misconfigured(f"file: {pipeline} works on words alone")
        if not wish.prompt:
            raise Misconfigured("prompt: say what the picture shows, with --prompt or --prompt-file")
        return Asked(wish)
    if file is None:
        raise Misconfigured(f"file: {pipeline} works on a file; name it with --file")
    if pipeline == IMAGE_TO_IMAGE and not wish.prompt:
        raise Misconfigured("prompt: say what the picture shall show, with --prompt or --prompt-file")
    data = _read(file)
    if pipeline == IMAGE_TO_IMAGE:
        return Asked(_drawn_over(wish, data), (data,))
    if pipeline in ON_PICTURES:
        told = _picture(wish, data, _factor(pipeline, wish))
        if pipeline == IMAGE_TO_VIDEO:
            told = replace(told, length=wish.length or FRAMES)
    elif pipeline == TRANSCODE:
        told = on_film(wish, data, file.suffix.lower())
    else:
        told = _sound(wish, data, file.suffix.lower())
    names = order_of(wish).names if pipeline == TRANSCODE else ()
    return Asked(replace(told, steps=1, guidance=0), (data,), names)


def options_of(texts: Sequence[str]) -> tuple[Option, ...]:
    """What --set was given, in order. Raises Misconfigured."""
    found = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given or not name or name in found or len(name.encode()) > 32 or len(value.encode()) > 256:
            raise Misconfigured(f"set: {text[:64]!r} is no NAME=VALUE, or its name appears twice")
        found[name] = value
    if len(found) > MAX_OPTIONS:
        raise Misconfigured(f"set: at most {MAX_OPTIONS} options")
    return tuple(Option(name, value) for name, value in sorted(found.items()))


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if not 1 <= size <= MAX_INPUT:
            raise Misconfigured(f"file: {file} has {size} bytes; 1 to {MAX_INPUT} can be sent")
        return file.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"file: {file} cannot be read: {exc.strerror}") from exc


def _drawn_over(wish: Wish, data: bytes) -> Wish:
    """The size of the picture, as near as such pictures can have it; of the steps those that its strength leaves."""
    told = _picture(wish, data, 1)
    sides = [max(MIN_SIDE, min(MAX_DENOISED_SIDE, side - side % SIDE_STEP)) for side in (told.width, told.height)]
    width, height = wish.width or sides[0], wish.height or sides[1]
    return replace(told, width=width, height=height, steps=max(1, round(wish.steps * _strength(wish))))


def _strength(wish: Wish) -> float:
    text = next((option.value for option in wish.options if option.name == "strength"), str(STRENGTH))
    try:
        strength = float(text)
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= 1:  # also false for what is no number
        raise Misconfigured(f"set: strength is 0 to 1, not {text[:16]!r}")
    return strength


def _factor(pipeline: str, wish: Wish) -> int:
    """How many times larger the result is than the picture."""
    if pipeline != UPSCALE:
        return 1
    told = next((option.value for option in wish.options if option.name == "factor"), "")
    if told not in FACTORS:
        raise Misconfigured(f"set: factor is 2 or 4, not {told[:16]!r}")
    return FACTORS[told]


def _picture(wish: Wish, data: bytes, larger: int) -> Wish:
    header = claimed(data)
    if header is None:
        raise Misconfigured("file: neither PNG, JPEG nor WebP")
    file = _input(PICTURES.get(header.format, "image/png"), data)
    return replace(wish, width=header.width * larger, height=header.height * larger, inputs=(file,))


def _sound(wish: Wish, data: bytes, suffix: str) -> Wish:
    if suffix not in SOUNDS:
        raise Misconfigured(f"file: a sound ends in {', '.join(SOUNDS)}")
    length = _wave_ms(data) if suffix == ".wav" else UNMEASURED_MS
    return replace(wish, length=length, inputs=(_input(SOUNDS[suffix], data),))


def _wave_ms(data: bytes) -> int:
    try:
        with wave.open(BytesIO(data)) as sound:
            return -(-sound.getnframes() * 1000 // sound.getframerate())
    except (wave.Error, EOFError, ZeroDivisionError) as exc:
        raise Misconfigured(f"file: no WAV: {exc}") from exc


def _input(media_type: str, data: bytes) -> Input:
    return Input(media_type, len(data), sha256(data).digest())
