"""Which files of a hub's model are fetched, and whether they may be: decided from its list of files. Pure.

Configurations, vocabularies, weights in safetensors and the card; never code, never a pickle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compute.filekinds import CODE, INDEX_SUFFIX, MAX_FILES, MAX_WEIGHTS, PICKLES, WEIGHTS
from compute.flaws import BadModel, Flaw
from p2p.errors import Misconfigured

MAX_PLAIN = 64 * 2**20  # bytes of a file that is no weights
SPARE_DISK = 2**30  # bytes that stay free, for everything else on the machine
CARD = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "pasar.json")
_TEXTS = (".txt", ".model", ".tiktoken")


@dataclass(frozen=True, slots=True)
class Remote:
    """One file of a hub's model. ``digest`` is the SHA-256 that the hub states, where it states one."""

    path: str
    size: int
    digest: bytes | None = None


def plan(files: Iterable[Remote], index: str, parts: tuple[str, ...]) -> tuple[Remote, ...]:
    """The files to fetch of a model whose ``index`` names these parts; none: its files lie beside the index.

    Raises BadModel for one that brings code, or has weights only in a format that runs code.
    """
    listed = list(files)
    if len(listed) > MAX_FILES * 16:
        raise BadModel(Flaw.TOO_MANY, f"the model has {len(listed)} files")
    chosen, weights, pickles = [], False, False
    for file in listed:
        folder, _, name = file.path.rpartition("/")
        if folder not in (parts or ("",)):
            if not folder and (name in CARD or name == index):
                chosen.append(file)
            if not folder and name.endswith(CODE):
                raise BadModel(Flaw.REMOTE_CODE, f"the model brings code, {name}, which is never run")
            continue
        if name.endswith(CODE):
            raise BadModel(Flaw.REMOTE_CODE, f"the model brings code, {file.path}, which is never run")
        pickles = pickles or name.endswith(PICKLES)
        weights = weights or WEIGHTS.fullmatch(name) is not None
        if _is_wanted(name):
            chosen.append(file)
    if not weights:
        flaw, why = (Flaw.PICKLE, "only in a format that runs code") if pickles else (Flaw.INCOMPLETE, "not at all")
        raise BadModel(flaw, f"the model has weights {why}; safetensors are needed")
    large = next((file for file in chosen if file.size > (MAX_WEIGHTS if _is_weights(file) else MAX_PLAIN)), None)
    if large is not None:
        raise BadModel(Flaw.TOO_LARGE, f"{large.path} has {large.size} bytes, which no such file has")
    return tuple(sorted(chosen, key=lambda file: file.path))


def check_disk(need: int, free: int, used: int, limit: int) -> None:
    """Raises Misconfigured when so many bytes more would exceed the disk, or the ``limit`` for all models (0: none)."""
    if limit and used + need > limit:
        raise Misconfigured(
            f"disk: the model takes {need // 10**6} MB, and {used // 10**6} MB of the {limit // 10**6} MB for models "
            "are used; remove some, or raise the limit"
        )
    if need + SPARE_DISK > free:
        raise Misconfigured(
            f"disk: the model takes {need // 10**6} MB, {free // 10**6} MB are free, and {SPARE_DISK // 10**6} MB stay "
            "free for everything else"
        )


def _is_weights(file: Remote) -> bool:
    return WEIGHTS.fullmatch(file.path.rpartition("/")[2]) is not None


def _is_wanted(name: str) -> bool:
    if name.endswith(INDEX_SUFFIX):
        return WEIGHTS.fullmatch(name.removesuffix(".index.json")) is not None
    return name.endswith((".json", *_TEXTS)) or WEIGHTS.fullmatch(name) is not None or name in CARD
