"""SHA-256 of large files, remembered by path, size and times of change, shared by all nodes of a machine. Shell.

Whoever hashes holds a lock beside the store, so that two nodes that start together hash a file once. The lock falls
with its process, and nobody waits for it for ever: hashing twice is slow, not wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_STORE = 4 * 2**20
MAX_KEPT = 4096  # files
LOCK_S = 300.0
_POLL_S = 0.05
_BLOCK = 2**20


@dataclass
class DigestCache:
    """A file is hashed again only when its size, its inode or a time of change differs.

    ``store`` may be a file that does not exist. A damaged store is an empty one: nothing is believed over a missing
    entry. A store that cannot be written costs the next start the same work, and no error.
    """

    store: Path | None = None

    def digest(self, path: Path) -> bytes:
        """The SHA-256 of ``path``'s bytes. Blocks."""
        known = self._known(path)
        if known is not None:
            return known
        with self._locked():
            known = self._known(path)  # another has hashed it meanwhile
            if known is not None:
                return known
            mark = _mark(path)
            digest = _hash_file(path)
            if mark == _mark(path):  # it did not change under our hands
                with suppress(OSError):
                    self._save({**self._load(), str(path.resolve()): [*mark, digest.hex()]})
            return digest

    def _known(self, path: Path) -> bytes | None:
        entry = self._load().get(str(path.resolve()))
        if isinstance(entry, list) and entry[:-1] == _mark(path) and _is_hex(entry[-1]):
            return bytes.fromhex(entry[-1])
        return None

    def _load(self) -> dict[str, Any]:
        try:
            if self.store is None or self.store.stat().st_size > MAX_STORE:
                return {}
            known = json.loads(self.store.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}

    def _save(self, known: Mapping[str, Any]) -> None:
        if self.store is None:
            return
        kept = dict(list(known.items())[-MAX_KEPT:])
        descriptor, fresh = tempfile.mkstemp(dir=self.store.parent, prefix=f".{self.store.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(kept, file)
            os.replace(fresh, self.store)
        except OSError:
            Path(fresh).unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among those who share the store, if that can be had in time."""
        if self.store is None:
            yield
            return
        try:
            self.store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.store.with_name(self.store.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            yield
            return
        try:
            _wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    until = time.monotonic() + LOCK_S
    while time.monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_POLL_S)
        except OSError:  # a file system without locks
            return


def _mark(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _hash_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()


def _is_hex(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text) is not None
