"""What a worker serves: from what an operator named to folders that were read, pinned ones marked. Shell.

Blocks: hashes files, and pulls what is missing where that was allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from compute.catalog import ModelEntry
from compute.checkerfolder import check_labels
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.modelfolder import bundled, bundled_names, read_folder
from compute.modelref import HubModel
from compute.modelstore import ModelStore
from compute.pulling import pull
from compute.safety import CHECKER, Checking
from compute.strictfolder import StrictFolder
from p2p.errors import Misconfigured

log = structlog.get_logger("node")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator wants served, and where it may come from. No names: what is bundled.

    ``pulls`` says whether missing models may be fetched, ``disk`` what all fetched ones may take (0: no limit).
    """

    names: tuple[str, ...]
    store: ModelStore
    cache: DigestCache
    pinned: tuple[str, ...] = ()
    pulls: bool = False
    disk: int = 0
    checking: Checking | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """Models in the order in which they are loaded, each once, and the hashes of those that are pinned.

    ``checking``: what is done with results, its checker by folder.
    """

    entries: tuple[ModelEntry, ...]
    pinned: frozenset[bytes]
    checking: Checking | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where they lie."""
        return tuple(Path(entry.folder) for entry in self.entries)


def serve(wanted: Wanted) -> Served:
    """Read them all. Raises Misconfigured for the first that cannot be served, Unavailable when a pull fails.

    What is bundled, was not named, and needs something that is not installed, is left out and said.
    """
    names = dict.fromkeys((*wanted.pinned, *(wanted.names or installed(bundled_names(), wanted.cache))))
    folders = [folder_of(wanted, name) for name in names]
    served = read_folders(
        folders, wanted.cache, {folders[at] for at, name in enumerate(names) if name in wanted.pinned}
    )
    return replace(served, checking=_checking(wanted))


def installed(names: Iterable[str], cache: DigestCache) -> tuple[str, ...]:
    """Of bundled models those that can run here."""
    found = []
    for name in names:
        try:
            read_folder(bundled(name), cache)
        except BadModel as exc:
            if exc.flaw is not Flaw.NOT_INSTALLED:
                raise
            log.warning("a bundled model is not served", model=name, reason=str(exc))
        else:
            found.append(name)
    return tuple(found)


def read_folders(folders: Iterable[Path], cache: DigestCache, pinned: Collection[Path] = ()) -> Served:
    """Read folders, each model once: the same weights under two names are one. Raises Misconfigured."""
    entries: dict[tuple[str, bytes], ModelEntry] = {}
    kept = set()
    for folder in folders:
        entry = read_folder(folder, cache)
        if entry.pipeline == CHECKER:
            raise Misconfigured(f"{entry.name} checks pictures and makes none; name it as the checker of [safety]")
        entries.setdefault((entry.pipeline, entry.model), entry)
        if folder in pinned:
            kept.add(entry.model)
    return Served(tuple(entries.values()), frozenset(kept))


def _checking(wanted: Wanted) -> Checking | None:
    """The operator's checking with its checker read, and in its folder. Raises Misconfigured, Unavailable."""
    if wanted.checking is None:
        return None
    folder = folder_of(wanted, wanted.checking.checker)
    entry = read_folder(folder, wanted.cache)
    if entry.pipeline != CHECKER:
        raise Misconfigured(f"safety: {entry.name} serves {entry.pipeline} and checks nothing")
    check_labels(StrictFolder(folder), wanted.checking)
    return replace(wanted.checking, checker=entry.folder)


def folder_of(wanted: Wanted, name: str) -> Path:
    """Where a named model lies, fetched first where that is needed and allowed."""
    ref = wanted.store.parse(name)
    if wanted.pulls and isinstance(ref, HubModel) and wanted.store.find(ref) is None:
        return Path(pull(ref, wanted.store, wanted.cache, wanted.disk).entry.folder)
    return wanted.store.require(name)
