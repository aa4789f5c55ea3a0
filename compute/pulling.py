"""Fetching a model from a hub, when an operator asks for it: planned, bounded, resumed, verified. Shell.

The only module that lets the hub's library use the network. It runs in a command, or in a node whose operator allowed
pulls; workers stay offline.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compute.catalog import ModelEntry, components, kind_of
from compute.digestcache import DigestCache
from compute.filekinds import WEIGHTS
from compute.flaws import BadModel, Flaw
from compute.hardware import free_disk
from compute.modelfolder import INDEXES, read_folder, reader_of
from compute.modelref import HubModel
from compute.modelstore import ModelStore, size_of
from compute.pullplan import Remote, check_disk, plan
from compute.strictfolder import MAX_CONFIG, StrictFolder
from compute.transferring import Tell, transfer
from p2p.errors import Misconfigured, Unavailable

Say = Callable[[str], None]
TellFile = Callable[[str, int, int], None]  # file, bytes that are here, bytes in all
_ETAG = re.compile(r"[0-9a-f]{40,64}")


def _silent(text: str) -> None: ...


def _idle(name: str, have: int, size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is here now: what it is, where it lies, what was fetched for it."""

    entry: ModelEntry
    commit: str
    size: int


def pull(
    ref: HubModel, store: ModelStore, cache: DigestCache, disk_limit: int, say: Say = _silent, tell: TellFile = _idle
) -> Pulled:
    """Fetch what is missing of a model. Blocks, for as long as it takes; what was fetched before is not fetched again.

    Raises BadModel, Misconfigured (no such model, no room), Unavailable (no hub).
    """
    hub = _library()
    with _translated(ref, hub):
        endpoint = os.environ.get("HF_ENDPOINT")  # the library's own name for another hub than the public one
        info = hub.HfApi(endpoint).model_info(ref.repo, revision=ref.revision, files_metadata=True)
        commit, files = str(info.sha), [_remote(one) for one in info.siblings or ()]
        index = next((name for name in INDEXES if any(file.path == name for file in files)), None)
        if index is None:
            raise BadModel(Flaw.NO_MODEL, f"{ref} has no model_index.json and no config.json")
        fetch = _Fetch(hub, ref, commit, store, endpoint)
        if next(file.size for file in files if file.path == index) > MAX_CONFIG:
            raise BadModel(Flaw.TOO_LARGE, f"{index} of {ref} is larger than {MAX_CONFIG} bytes")
        folder = fetch(index).parent
        wanted = plan(files, index, _parts(folder, index))
        total = sum(file.size for file in wanted)
        have = size_of(store.root / ref.folder)
        check_disk(max(0, total - have), free_disk(store.root), store.used(), disk_limit)
        say(f"{ref}: {len(wanted)} files, {total // 10**6} MB, at commit {commit[:12]}")
        for file in wanted:
            if WEIGHTS.fullmatch(file.path.rpartition("/")[2]):
                fetch.large(file, partial(tell, file.path))
            else:
                fetch(file.path)
        _remember(store, ref, commit)
    _verify(folder, wanted, cache)
    return Pulled(read_folder(folder, cache), commit, total)


@dataclass(frozen=True, slots=True)
class _Fetch:
    hub: Any
    ref: HubModel
    commit: str
    store: ModelStore
    endpoint: str | None

    def __call__(self, name: str) -> Path:
        return Path(
            self.hub.hf_hub_download(
                self.ref.repo, name, revision=self.commit, cache_dir=str(self.store.root), endpoint=self.endpoint
            )
        )

    def large(self, file: Remote, tell: Tell) -> None:
        """A file of weights, byte by byte where an earlier try stopped, put where the library would put it."""
        place = self.store.root / self.ref.folder / "snapshots" / self.commit / file.path
        if place.is_file() and place.stat().st_size == file.size:
            return
        url = self.hub.hf_hub_url(self.ref.repo, file.path, revision=self.commit, endpoint=self.endpoint)
        head = self.hub.get_hf_file_metadata(url, endpoint=self.endpoint)
        if not head.etag or not _ETAG.fullmatch(head.etag) or head.size != file.size:
            raise Unavailable(f"{file.path} of {self.ref} has another size now, or no name; pull again")
        blob = self.store.root / self.ref.folder / "blobs" / head.etag
        if not blob.is_file():
            headers = self.hub.utils.build_hf_headers() if head.location.startswith(url.split("/resolve/")[0]) else {}
            transfer(head.location, headers, file.size, blob, tell)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))


def _parts(folder: Path, index: str) -> tuple[str, ...]:
    """The parts of a diffusers pipeline, none of any other model; also whether anybody here serves its kind."""
    told = StrictFolder(folder).json(index)
    reader_of(kind_of(told))
    return components(told) if index == "model_index.json" else ()


def _remember(store: ModelStore, ref: HubModel, commit: str) -> None:
    """What the revision means now: the library knows the commit only."""
    if ref.revision != commit:
        path = store.root / ref.folder / "refs" / ref.revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)


def _verify(folder: Path, wanted: tuple[Remote, ...], cache: DigestCache) -> None:
    """The library believes sizes; the hub states digests of large files, and they are compared."""
    for file in wanted:
        path = folder / file.path
        if file.digest is not None and cache.digest(path) != file.digest:
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)
            raise Unavailable(f"{file.path} did not arrive as the hub states it; it was thrown away: pull again")


def _remote(one: Any) -> Remote:
    sha = getattr(one.lfs, "sha256", None) if one.lfs is not None else None
    digest = bytes.fromhex(sha) if isinstance(sha, str) and len(sha) == 64 else None
    return Remote(str(one.rfilename), int(one.size or 0), digest)


def _library() -> Any:
    """The hub's library, told to send no telemetry. It reads the environment once, when it is imported."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import huggingface_hub
    except ImportError as exc:
        raise Misconfigured("pulling needs the extra: pip install pasar[orchestrator]") from exc
    return huggingface_hub


@contextmanager
def _translated(ref: HubModel, hub: Any) -> Iterator[None]:
    """The library's many errors as ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as exc:
        raise Misconfigured(f"{ref} is given only to who has accepted its licence; log in to the hub first") from exc
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as exc:
        raise Misconfigured(f"the hub has no {ref}") from exc
    except errors.OfflineModeIsEnabled as exc:
        raise Misconfigured("HF_HUB_OFFLINE is set, so nothing can be pulled") from exc
    except (OSError, getattr(errors, "HTTPError", OSError)) as exc:  # no connection, no answer, no room
        raise Unavailable(f"{ref} could not be pulled: {type(exc).__name__}: {str(exc)[:200]}") from exc
