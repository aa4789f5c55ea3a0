"""Damaged weight files: copies of a model whose safetensors no library can read, or whose numbers are another net's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

PREFIX = 8


def copied(source: Path, target: Path) -> Path:
    """A model folder of our own, to be damaged."""
    return Path(shutil.copytree(source, target))


def weights_of(folder: Path) -> list[Path]:
    """Its weight files, in order."""
    return sorted(folder.rglob("*.safetensors"))


def renamed(path: Path, rename: Callable[[str], str]) -> None:
    """The same file with its first tensor under another name; all lengths and offsets agree."""
    data = path.read_bytes()
    length = int.from_bytes(data[:PREFIX], "little")
    header: dict[str, Any] = json.loads(data[PREFIX : PREFIX + length])
    first = next(name for name in header if name != "__metadata__")
    changed = {(rename(name) if name == first else name): told for name, told in header.items()}
    fresh = json.dumps(changed).encode()  # escapes what is no text
    path.write_bytes(len(fresh).to_bytes(PREFIX, "little") + fresh + data[PREFIX + length :])


def half_a_sign(path: Path) -> None:
    """A name that Python's JSON takes, and the library does not: half of a surrogate pair."""
    renamed(path, lambda name: name + "\ud800")


def garbage(path: Path) -> None:
    """No header at all."""
    path.write_bytes(b"\xff" * path.stat().st_size)


def cut(path: Path) -> None:
    """The first half of it."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    """Nothing."""
    path.write_bytes(b"")


DAMAGES = (half_a_sign, garbage, cut, empty)
