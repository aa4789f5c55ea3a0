"""A model folder read with suspicion: every file regular, inside, bounded, and none that would run code. Shell.

A folder of a hub's cache is full of links to its blobs: links may lead anywhere inside one model's part of the cache
(``models--ORG--NAME``), and from any other folder nowhere outside it. What passes may be given to a library. Knows no
pipeline: a reader asks for the files that its kind of model has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from compute.catalog import WeightFile
from compute.digestcache import DigestCache
from compute.filekinds import (
    ADAPTERS,
    CODE,
    INDEX_SUFFIX,
    MAX_FILES,
    MAX_WEIGHTS,
    PICKLES,
    REMOTE_KEYS,
    VOCABULARIES,
    WEIGHTS,
)
from compute.flaws import BadModel, Flaw
from compute.strictjson import check_depth, parse_object
from compute.weightsheader import PREFIX, check_header, header_length

MAX_CONFIG = 2**20
MAX_INDEX = 16 * 2**20  # of weights in many files
MAX_WORDS = 64 * 2**20  # a tokenizer, a vocabulary
MAX_CARD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Opened:
    """A regular file inside the folder, and its size when it was looked at."""

    path: Path
    size: int


class StrictFolder:
    """One folder. Everything raises BadModel with the flaw that was found; nothing is read past its bound."""

    def __init__(self, folder: Path) -> None:
        try:
            self.path = folder.resolve(strict=True)
        except (OSError, RuntimeError) as exc:  # a circle of links
            raise BadModel(Flaw.NO_MODEL, f"{folder} is not there") from exc
        if not self.path.is_dir():
            raise BadModel(Flaw.NO_MODEL, f"{folder} is no folder")
        self._root = _cache_root(self.path) or self.path

    @property
    def name(self) -> str:
        """What the model is called unless it says itself: as the hub called it, else as its folder is."""
        called = self._root.name
        return called.removeprefix("models--").replace("--", "/", 1) if self._root != self.path else self.path.name

    def names(self, part: str = "") -> tuple[str, ...]:
        """The entries of the folder, or of one part, in order. Stops counting at more than a model has."""
        where = self.path / part
        try:
            self._inside(where)
            with os.scandir(where) as entries:
                found = [entry.name for entry in islice(entries, MAX_FILES + 1)]
        except OSError as exc:
            raise BadModel(Flaw.INCOMPLETE, f"{self.path} lacks its part {part}") from exc
        if len(found) > MAX_FILES:
            raise BadModel(Flaw.TOO_MANY, f"{where} has more than {MAX_FILES} entries")
        return tuple(sorted(found))

    def has(self, name: str) -> bool:
        """Whether there is anything of this name."""
        return os.path.lexists(self.path / name)

    def open(self, name: str, most: int) -> Opened:
        """A file by its path inside the folder, looked at and not read."""
        path = self.path / name
        try:
            real = self._inside(path)
            found = real.stat(follow_symlinks=False)
        except (OSError, RuntimeError) as exc:
            raise BadModel(Flaw.INCOMPLETE, f"{path} is not there") from exc
        if not stat.S_ISREG(found.st_mode):
            raise BadModel(Flaw.NO_FILE, f"{path} is no regular file")
        if found.st_size > most:
            raise BadModel(Flaw.TOO_LARGE, f"{path} is larger than {most} bytes")
        return Opened(real, found.st_size)

    def read(self, name: str, most: int = MAX_CONFIG) -> bytes:
        """A whole small file."""
        opened = self.open(name, most)
        return _read(opened.path, opened.size + 1)

    def json(self, name: str, most: int = MAX_CONFIG) -> Mapping[str, Any]:
        """A file that is one JSON object, and names no code."""
        found = parse_object(self.read(name, most), str(self.path / name))
        for key in REMOTE_KEYS:
            if found.get(key):
                raise BadModel(Flaw.REMOTE_CODE, f"{self.path / name} asks for code with {key}, which is never run")
        return found

    def card(self) -> str:
        """What the README says, its first part; empty when there is none that can be read."""
        if not self.has("README.md"):
            return ""
        return _read(self.open("README.md", MAX_WORDS).path, MAX_CARD).decode(errors="replace")

    def check(self, part: str = "") -> None:
        """Look at all that a library may open in the folder itself, or in one part."""
        names = self.names(part)
        for name in names:
            if not name.isprintable() or "\\" in name:
                raise BadModel(Flaw.BAD_NAME, f"{self.path / part} has an entry named {name[:80]!r}")
            if name.endswith(CODE):
                raise BadModel(Flaw.REMOTE_CODE, f"{self.path / part} brings code, {name}, which is never run")
            if name in ADAPTERS:
                raise BadModel(Flaw.REMOTE_CODE, f"{self.path / part} is an adapter for another model")
            inside = f"{part}/{name}" if part else name
            if not name.startswith(".") and not name.endswith((*PICKLES, ".safetensors")):
                self._check_file(inside)

    def weights(self, cache: DigestCache, part: str = "") -> tuple[list[WeightFile], int]:
        """The weight files of the folder or a part, headers checked and hashed, and how many numbers they hold."""
        there = self.names(part)
        names = [name for name in there if WEIGHTS.fullmatch(name)]
        if not names and any(name.endswith(PICKLES) for name in there):
            where = self.path / part
            raise BadModel(Flaw.PICKLE, f"{where} has its weights only in a format that runs code; use safetensors")
        found, numbers = [], 0
        for name in names:
            inside = f"{part}/{name}" if part else name
            opened = self.open(inside, MAX_WEIGHTS)
            numbers += _check_weights(opened, inside)
            found.append(WeightFile(inside, opened.size, cache.digest(opened.path)))
        self._check_index(part, names)
        return found, numbers

    def _check_index(self, part: str, names: list[str]) -> None:
        """An index must name exactly the files that are hashed: a library loads what it says."""
        for index in (name for name in self.names(part) if name.endswith(INDEX_SUFFIX)):
            if not WEIGHTS.fullmatch(index.removesuffix(".index.json")):
                continue  # of a variant, which is not loaded
            inside = f"{part}/{index}" if part else index
            told = self.json(inside, MAX_INDEX).get("weight_map")
            named = set(told.values()) if isinstance(told, dict) and all(map(_is_text, told.values())) else set()
            if any(not WEIGHTS.fullmatch(name) for name in named):
                raise BadModel(Flaw.BAD_INDEX, f"{self.path / inside} names files that no weights have")
            if named != set(names):
                raise BadModel(Flaw.BAD_INDEX, f"{self.path / inside} names other files than there are")

    def _check_file(self, name: str) -> None:
        path = self.path / name
        try:
            if self._inside(path).is_dir():
                return
        except (OSError, RuntimeError) as exc:
            raise BadModel(Flaw.INCOMPLETE, f"{path} is a link to nothing") from exc
        base = name.rpartition("/")[2]
        if base.endswith(INDEX_SUFFIX):
            check_depth(self.read(name, MAX_INDEX), str(path))
        elif base in VOCABULARIES:
            if base.endswith(".json"):
                check_depth(self.read(name, MAX_WORDS), str(path))
            self.open(name, MAX_WORDS)
        elif base.endswith(".json"):
            self.json(name)
        else:
            self.open(name, MAX_WEIGHTS)

    def _inside(self, path: Path) -> Path:
        """Where ``path`` really is. Raises BadModel outside of what may be read, OSError for what is not there."""
        real = path.resolve(strict=True)
        if not real.is_relative_to(self._root):
            raise BadModel(Flaw.OUTSIDE, f"{path} leads out of {self._root}")
        return real


def own_words(folder: StrictFolder) -> Mapping[str, Any]:
    """What ``pasar.json`` says, where there is one, and the name of the folder where it says none."""
    return {"name": folder.name, **(folder.json("pasar.json") if folder.has("pasar.json") else {})}


def _cache_root(folder: Path) -> Path | None:
    """The part of a hub's cache that one model has, when ``folder`` is a snapshot in it."""
    snapshots = folder.parent
    if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--"):
        return snapshots.parent
    return None


def _check_weights(opened: Opened, name: str) -> int:
    prefix = _read(opened.path, PREFIX)
    length = header_length(prefix, opened.size, name)
    header = _read(opened.path, PREFIX + length)[PREFIX:]
    return check_header(header, opened.size, name)


def _read(path: Path, most: int) -> bytes:
    """The first bytes of a regular file: never waits for a pipe, never follows a link that came meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise BadModel(Flaw.INCOMPLETE, f"{path} cannot be read: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
