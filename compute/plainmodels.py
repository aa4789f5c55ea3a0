"""Model folders with a ``config.json`` of their own, and no diffusers index; what each kind is offered for. Shell.

Their limits are those of the pipeline that serves them (``compute/pipelines``), said here once more as the offer says
them, because a node reads folders without importing a model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compute.catalog import ModelEntry, WeightFile, entry_name, kind_of, licence_of, weights_digest
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.spec import AUDIO_TO_TEXT, IMAGE_TO_TEXT, IMAGE_TO_VIDEO, SEGMENT_ANYTHING, UPSCALE
from compute.strictfolder import StrictFolder, own_words

PICTURE_SIDE, PICTURE_BYTES = 4096, 16 * 2**20
FILM_SIDE, FILM_FRAMES = 1024, 240
SOUND_MS, SOUND_BYTES = 3600 * 1000, 48 * 2**20


@dataclass(frozen=True, slots=True)
class Kind:
    """What models of one kind do, and the most that they take."""

    pipeline: str
    side: int = 0
    length: int = 0
    input: int = 0
    parts: tuple[str, ...] = ("",)  # folders with weights; "" is the model's own


_HEARS = Kind(AUDIO_TO_TEXT, length=SOUND_MS, input=SOUND_BYTES)
KINDS = {
    "pasar-ears": _HEARS,
    "WhisperForConditionalGeneration": _HEARS,
    "VisionEncoderDecoderModel": Kind(IMAGE_TO_TEXT, side=PICTURE_SIDE, input=PICTURE_BYTES),
    "pasar-doubler": Kind(UPSCALE, side=PICTURE_SIDE, input=PICTURE_BYTES),
    "pasar-mover": Kind(
        IMAGE_TO_VIDEO, side=FILM_SIDE, length=FILM_FRAMES, input=PICTURE_BYTES, parts=("splitter", "text_encoder")
    ),
    "SamModel": Kind(SEGMENT_ANYTHING, side=PICTURE_SIDE, input=PICTURE_BYTES),
}


def read_plain(folder: StrictFolder, index: Mapping[str, Any], cache: DigestCache) -> ModelEntry:
    """The entry of a folder of one of KINDS. Raises BadModel."""
    kind, own = KINDS[kind_of(index)], own_words(folder)
    found: list[WeightFile] = []
    numbers = 0
    for part in kind.parts:
        if part:
            folder.check(part)
        weights, count = folder.weights(cache, part)
        found, numbers = found + weights, numbers + count
    if not found:
        raise BadModel(Flaw.INCOMPLETE, f"{folder.path} has no safetensors weights; other formats are not loaded")
    return ModelEntry(
        folder=str(folder.path),
        pipeline=kind.pipeline,
        name=entry_name(own, str(folder.path)),
        model=weights_digest(found),
        native_side=0,
        max_side=kind.side,
        side_step=1,
        max_steps=1,
        weight_bytes=sum(file.size for file in found),
        numbers=numbers,
        licence=licence_of(own, folder.card()),
        max_length=kind.length,
        max_input=kind.input,
    )
