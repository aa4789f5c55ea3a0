"""The models of a hub that lie on this machine, in the form of the hub's own cache: found, counted, removed. Shell.

    ROOT/models--ORG--NAME/refs/main             the commit that a branch or tag meant when it was pulled
    ROOT/models--ORG--NAME/snapshots/COMMIT/     the files, as links to
    ROOT/models--ORG--NAME/blobs/                their bytes

What other programs have put into the user's own cache is found too, and never removed. Speaks to no network.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compute.modelfolder import bundled, bundled_names
from compute.modelref import MAIN, BundledModel, FolderModel, HubModel, ModelRef, parse_ref
from p2p.errors import Misconfigured

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_REF_FILE = 100


@dataclass(frozen=True, slots=True)
class Kept:
    """One pulled model: what it is called, and the bytes that it takes."""

    ref: HubModel
    folder: Path
    size: int


class ModelStore:
    """``root`` is ours. ``others`` are caches that are only read."""

    def __init__(self, root: Path, others: tuple[Path, ...] | None = None) -> None:
        self.root = root
        self._others = hub_caches() if others is None else others

    def parse(self, text: str) -> ModelRef:
        """What an operator means. Raises Misconfigured."""
        return parse_ref(text, bundled_names(), is_folder=os.path.isdir(os.path.expanduser(text)))

    def find(self, ref: ModelRef) -> Path | None:
        """The folder of a model, if it is on this machine."""
        match ref:
            case BundledModel():
                return bundled(ref.name)
            case FolderModel():
                return Path(ref.path).expanduser()
            case HubModel():
                return next((path for root in (self.root, *self._others) for path in _snapshot(root, ref)), None)

    def require(self, text: str) -> Path:
        """The folder of a model that an operator named. Raises Misconfigured with what to do when it is not here."""
        ref = self.parse(text)
        found = self.find(ref)
        if found is None:
            raise Misconfigured(f"{ref} is not on this machine; fetch it with: models pull {ref}")
        return found

    def kept(self) -> tuple[Kept, ...]:
        """Everything that was pulled into our own part."""
        return tuple(self._all())

    def used(self) -> int:
        """Bytes of all that was pulled."""
        return size_of(self.root)

    def remove(self, ref: HubModel) -> int:
        """Delete a pulled model, all its revisions; the bytes that are free now. Raises Misconfigured."""
        folder = self.root / ref.folder
        if folder.is_symlink() or not folder.is_dir():
            raise Misconfigured(f"{ref.repo} was not pulled here; nothing of it lies in {self.root}")
        size = size_of(folder)
        shutil.rmtree(folder)
        shutil.rmtree(self.root / ".locks" / ref.folder, ignore_errors=True)
        return size

    def _all(self) -> Iterator[Kept]:
        for folder in sorted(self.root.glob("models--*--*")) if self.root.is_dir() else ():
            _, org, name = folder.name.split("--", 2)
            revisions = sorted(path.name for path in (folder / "refs").glob("*"))
            for revision in revisions:
                ref = HubModel(org, name, revision)
                for path in _snapshot(self.root, ref):
                    yield Kept(ref, path, size_of(folder))


def hub_caches() -> tuple[Path, ...]:
    """Where the hub's own library keeps what other programs pulled for this user."""
    named = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return (Path(named) if named else Path(home or cache / "huggingface") / "hub",)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, each once; links count as nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            total += 0 if path.is_symlink() else path.lstat().st_size
    return total


def _snapshot(root: Path, ref: HubModel) -> Iterator[Path]:
    """The folder of one revision, none or one."""
    commit = ref.revision
    if not _COMMIT.fullmatch(commit):
        try:
            with (root / ref.folder / "refs" / (ref.revision or MAIN)).open() as file:
                commit = file.read(_MAX_REF_FILE).strip()
        except OSError:
            return
    folder = root / ref.folder / "snapshots" / commit
    if _COMMIT.fullmatch(commit) and folder.is_dir():
        yield folder
