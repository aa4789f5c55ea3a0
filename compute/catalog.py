"""What a model folder says about itself, read from its parsed JSON files: pipeline, sizes, steps, and its name by hash.

Pure: ``compute/modelfolder.py`` reads the files. Everything in a folder is foreign, so it is bounded and refused with a
typed reason before a model library sees it. Knows no tensor and no device.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from compute.capability import Dtype, ModelCapability
from compute.flaws import BadModel, Flaw
from compute.spec import IMAGE_TO_IMAGE, MAX_DENOISED_SIDE, MAX_STEPS, MIN_SIDE, SIDE_STEP, TEXT_TO_IMAGE

PIPELINE_OF_CLASS = {"StableDiffusionPipeline": TEXT_TO_IMAGE}
ALSO_SERVED = {TEXT_TO_IMAGE: (IMAGE_TO_IMAGE,)}  # by a model of this pipeline, once it is loaded
MAX_DRAWN_OVER = 4 * 2**20  # bytes of a picture that is drawn over: more than a PNG of the largest result has
LIBRARIES = frozenset({"diffusers", "transformers"})  # code comes from these, never from the folder
UNUSED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})  # never loaded, so not part of the hash
_LICENCE = re.compile(r"license(_name)?:\s*\S")
STRETCH = 4  # how far past its native side a model is offered unless its folder says otherwise


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One safetensors file: its path inside the folder with slashes, its size, the SHA-256 of its bytes."""

    path: str
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that may be loaded from ``folder``. ``model`` names its weights wherever they lie."""

    folder: str
    pipeline: str
    name: str
    model: bytes
    native_side: int
    max_side: int
    side_step: int
    max_steps: int
    weight_bytes: int
    numbers: int = 0
    licence: str = ""
    max_length: int = 0
    max_input: int = 0

    def guess(self, dtype: Dtype) -> int:
        """What it may take when it is loaded, before that was measured: its numbers in this format, and a quarter."""
        return (max(self.weight_bytes, self.numbers * dtype.size) * 5) // 4

    def capability(self, dtype: Dtype) -> ModelCapability:
        """The entry as offered while it is still cold, for its own pipeline."""
        return ModelCapability(
            model=self.model,
            name=self.name,
            pipeline=self.pipeline,
            native_side=self.native_side,
            max_side=self.max_side,
            side_step=self.side_step,
            max_steps=self.max_steps,
            dtype=dtype,
            max_length=self.max_length,
            max_input=self.max_input,
        )


def all_served(entry: ModelCapability) -> tuple[ModelCapability, ...]:
    """A model as each pipeline has it that it serves, its own first. A unit means the same work in all of them."""
    others = ALSO_SERVED.get(entry.pipeline, ())
    return (entry, *(replace(entry, pipeline=name, max_input=MAX_DRAWN_OVER) for name in others))


def served_cold(entries: Iterable[ModelEntry], dtype: Dtype) -> tuple[ModelCapability, ...]:
    """Models as they are offered before any is loaded."""
    return tuple(one for entry in entries for one in all_served(entry.capability(dtype)))


def components(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of a model that are loaded, from its ``model_index.json``.

    Raises BadModel for a pipeline class that is not served and for parts whose code is not a known library's.
    """
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in PIPELINE_OF_CLASS:
        served = ", ".join(PIPELINE_OF_CLASS)
        raise BadModel(Flaw.UNSERVED, f"no pipeline serves a {str(kind)[:64]}; served are {served}")
    parts = []
    for part, origin in index.items():
        if part in UNUSED or not isinstance(origin, list) or origin == [None, None]:
            continue
        if len(origin) != 2 or origin[0] not in LIBRARIES:
            whence = str(origin[0])[:64] if origin else "nowhere"
            raise BadModel(Flaw.REMOTE_CODE, f"part {part[:64]} would run code from {whence}, which is not allowed")
        if not part.isidentifier() or len(part) > 64:
            raise BadModel(Flaw.BAD_NAME, f"{part[:64]!r} is no name of a part")
        parts.append(part)
    return tuple(sorted(parts))


def kind_of(index: Mapping[str, Any]) -> str:
    """What kind of model an index describes, in the words of the library that wrote it."""
    kind, architectures = index.get("_class_name"), index.get("architectures")
    if isinstance(kind, list):
        raise BadModel(Flaw.REMOTE_CODE, "the model's class is code of its own, which is never run")
    if kind is None and isinstance(architectures, list) and architectures:
        kind = architectures[0]
    if kind is None:
        kind = index.get("model_type")
    return str(kind)[:64]


def weights_digest(files: Iterable[WeightFile]) -> bytes:
    """The hash that names a model: over path, size and digest of each of its weight files, in path order."""
    total = hashlib.sha256(b"pasar/weights/1\0")
    for file in sorted(files, key=lambda f: f.path):
        path = file.path.encode()
        total.update(len(path).to_bytes(2, "big") + path + file.size.to_bytes(8, "big") + file.digest)
    return total.digest()


def read_entry(
    folder: str,
    index: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    own: Mapping[str, Any],
    files: tuple[WeightFile, ...],
    *,
    numbers: int = 0,
    licence: str = "",
) -> ModelEntry:
    """The entry of a folder: ``configs`` are the files of its parts, ``own`` is ``pasar.json`` or empty.

    ``numbers`` is how many its weights hold. Raises BadModel with what is wrong, in words for the operator.
    """
    if not files:
        raise BadModel(Flaw.INCOMPLETE, f"{folder} has no safetensors weights; other formats are not loaded")
    factor = _vae_factor(configs.get("vae", {}))
    sample = configs.get("unet", {}).get("sample_size", 64)
    guess = _number(sample[0] if isinstance(sample, list) and sample else sample, "unet sample_size", 1, 4096) * factor
    native = _number(
        own.get("native_side", max(MIN_SIDE, min(guess, MAX_DENOISED_SIDE))), "native_side", MIN_SIDE, MAX_DENOISED_SIDE
    )
    most = _number(own.get("max_side", min(MAX_DENOISED_SIDE, STRETCH * native)), "max_side", native, MAX_DENOISED_SIDE)
    trained = _number(configs.get("scheduler", {}).get("num_train_timesteps", 1000), "num_train_timesteps", 1, 10**6)
    steps = _number(own.get("max_steps", min(trained, MAX_STEPS)), "max_steps", 1, min(trained, MAX_STEPS))
    return ModelEntry(
        folder=folder,
        pipeline=PIPELINE_OF_CLASS[index["_class_name"]],
        name=entry_name(own, folder),
        model=weights_digest(files),
        native_side=native,
        max_side=most,
        side_step=max(SIDE_STEP, factor),
        max_steps=steps,
        weight_bytes=sum(f.size for f in files),
        numbers=numbers,
        licence=licence,
    )


def entry_name(own: Mapping[str, Any], folder: str) -> str:
    """What the model is called: in its ``pasar.json``, else its folder's own name. Raises BadModel."""
    return _name(own.get("name", folder.rstrip("/").rpartition("/")[2]))


def licence_of(own: Mapping[str, Any], card: str) -> str:
    """The licence that a folder states: in its ``pasar.json``, else in the front of its card. Empty when in neither.

    It is a claim, shown and not checked: one line, at most 64 signs.
    """
    told = own.get("licence", own.get("license"))
    if not isinstance(told, str):
        told = next((line.partition(":")[2] for line in _front(card) if _LICENCE.match(line)), "")
    return "".join(sign for sign in told if sign.isprintable()).strip().strip("\"'")[:64]


def _front(card: str) -> list[str]:
    """The lines between the first two rules of a card, without the nested ones."""
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    end = next((at for at, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
    return sorted(lines[1:end], key=lambda line: line.startswith("license:"))  # a name says more than "other"


def _vae_factor(config: Mapping[str, Any]) -> int:
    blocks = config.get("block_out_channels", [0] * 4)
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 7:
        raise BadModel(Flaw.BAD_VALUE, "vae block_out_channels is no list of 1 to 7")
    return int(1 << (len(blocks) - 1))


def _number(value: object, what: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise BadModel(Flaw.BAD_VALUE, f"{what} must be a whole number from {least} to {most}, not {str(value)[:32]}")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value.encode(errors="replace")) <= 96 or not value.isprintable():
        raise BadModel(Flaw.BAD_VALUE, f"a model's name is 1 to 96 printable bytes, not {str(value)[:32]!r}")
    return value
