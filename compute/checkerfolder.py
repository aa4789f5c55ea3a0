"""Reads the folder of a safety checker, a picture classifier of the library's own classes, as strictly as any model.

Shell. A checker is not sold: whoever serves one by mistake is told where its place is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.catalog import ModelEntry, entry_name, licence_of, weights_digest
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.safety import CHECKER, Checking
from compute.strictfolder import StrictFolder, own_words
from p2p.errors import Misconfigured

KIND = "ForImageClassification"  # how the names of such classes end
MAX_CLASSES = 4096


def read_checker(folder: StrictFolder, index: Mapping[str, Any], cache: DigestCache) -> ModelEntry:
    """The entry of a folder of this kind. Raises BadModel."""
    labels_in(index)
    weights, numbers = folder.weights(cache)
    if not weights:
        raise BadModel(Flaw.INCOMPLETE, f"{folder.path} has no safetensors weights; other formats are not loaded")
    own = own_words(folder)
    return ModelEntry(
        folder=str(folder.path),
        pipeline=CHECKER,
        name=entry_name(own, str(folder.path)),
        model=weights_digest(weights),
        native_side=0,
        max_side=0,
        side_step=1,
        max_steps=1,
        weight_bytes=sum(file.size for file in weights),
        numbers=numbers,
        licence=licence_of(own, folder.card()),
    )


def labels_in(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of a classifier in the order of its outputs. Raises BadModel."""
    told = index.get("id2label")
    if not isinstance(told, dict) or not 1 <= len(told) <= MAX_CLASSES:
        raise BadModel(Flaw.BAD_VALUE, f"a checker says in id2label what its 1 to {MAX_CLASSES} classes are")
    labels = [told.get(str(number)) for number in range(len(told))]
    found = tuple(label for label in labels if isinstance(label, str) and 1 <= len(label.encode()) <= 64)
    if len(set(found)) != len(told):
        raise BadModel(Flaw.BAD_VALUE, "id2label does not name each class once, in 1 to 64 bytes")
    return found


def check_labels(folder: StrictFolder, checking: Checking) -> None:
    """Raises Misconfigured when a label counts as unsafe that this checker does not have, or none does."""
    there = labels_in(folder.json("config.json"))
    missing = [label for label in checking.unsafe if label not in there]
    if missing or not checking.unsafe:
        named = repr(missing[0][:64]) if missing else "no label"
        raise Misconfigured(f"safety: {named} is none of what {folder.name} tells: {', '.join(there[:20])}")
