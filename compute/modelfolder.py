"""Reads model folders: their JSON files and the digests of their weights, cached by path, size and change time.

Shell around ``compute/catalog.py``; imports no model library. Only safetensors are looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from compute.catalog import ModelEntry, WeightFile, components, read_entry
from p2p.errors import Misconfigured

MAX_JSON = 2**20
MAX_FILES = 1024  # entries in one part's folder
_BLOCK = 2**20
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors")


def bundled(name: str = "tiny") -> Path:
    """The folder of a model that ships with the package. It may be absent in a bare checkout."""
    return Path(str(package_files("compute"))) / "models" / name


@dataclass
class DigestCache:
    """SHA-256 of files, hashed again only when size or change time differ. ``store`` may be a file that does not exist.

    A damaged store is an empty one: the cache is never believed over a missing entry.
    """

    store: Path | None = None

    def digest(self, path: Path) -> bytes:
        """The SHA-256 of ``path``'s bytes."""
        stat = path.stat()
        known = self._load()
        key = str(path.resolve())
        mark = [stat.st_size, stat.st_mtime_ns]
        entry = known.get(key)
        if isinstance(entry, list) and entry[:2] == mark and len(entry) == 3 and _is_hex(entry[2]):
            return bytes.fromhex(entry[2])
        digest = _hash_file(path)
        self._save({**known, key: [*mark, digest.hex()]})
        return digest

    def _load(self) -> dict[str, Any]:
        if self.store is None or not self.store.is_file():
            return {}
        try:
            known = _read_json(self.store)
        except Misconfigured:
            return {}
        return dict(known)

    def _save(self, known: Mapping[str, Any]) -> None:
        if self.store is None:
            return
        self.store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.store.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(dict(list(known.items())[-MAX_FILES:])))
        fresh.replace(self.store)


def read_folder(folder: Path, cache: DigestCache | None = None) -> ModelEntry:
    """The entry of one local model folder. Raises Misconfigured with the reason. Blocks: hashes files."""
    folder = folder.resolve()
    if not (folder / "model_index.json").is_file():
        raise Misconfigured(f"{folder} is no model folder: it has no model_index.json")
    index = _read_json(folder / "model_index.json")
    cache = cache or DigestCache()
    configs: dict[str, Mapping[str, Any]] = {}
    weights: list[WeightFile] = []
    for part in components(index):
        inside = folder / part
        if not inside.is_dir():
            raise Misconfigured(f"{folder} lacks its part {part}")
        for name in ("scheduler_config.json", "config.json"):
            if (inside / name).is_file():
                configs[part] = _read_json(inside / name)
        weights += _weights_of(folder, inside, cache)
    own = _read_json(folder / "pasar.json") if (folder / "pasar.json").is_file() else {}
    return read_entry(str(folder), index, configs, own, tuple(weights))


def _weights_of(folder: Path, inside: Path, cache: DigestCache) -> list[WeightFile]:
    names = sorted(os.listdir(inside))
    if len(names) > MAX_FILES:
        raise Misconfigured(f"{inside} has more than {MAX_FILES} files")
    paths = [inside / name for name in names if _WEIGHTS.fullmatch(name)]
    return [WeightFile(path.relative_to(folder).as_posix(), path.stat().st_size, cache.digest(path)) for path in paths]


def _hash_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()


def _read_json(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > MAX_JSON:
        raise Misconfigured(f"{path} is larger than {MAX_JSON} bytes")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise Misconfigured(f"{path} is no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise Misconfigured(f"{path} is no JSON object")
    return value


def _is_hex(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text) is not None
