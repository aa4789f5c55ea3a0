"""The models of this machine, as ``models list`` shows them: served or only here, and where a running node has them.

Reads folders, asks the node's local door. Speaks to no network.
"""

from __future__ import annotations

import trio

from compute.catalog import ModelEntry
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.modelfolder import bundled_names, read_folder
from compute.modelstore import ModelStore
from compute.pins import read_pins
from market.config import Config
from market.modeldoor import ModelHere, ask_models, cache_of, data_dirs, store_of
from p2p.errors import Unavailable


async def local_models(config: Config) -> list[dict[str, object]]:
    """One row for each model: what it is called, what it is, and where it is. Raises Misconfigured.

    A folder that is not served is listed with its flaw, unless it was named: then that is an error.
    """
    store, cache = store_of(config), cache_of(config)
    try:
        running = await ask_models(config)
    except Unavailable:
        running = None
    live = {one.model: one for one in running[1].models} if running else {}
    pinned = {name for path in data_dirs(config)[:1] for name in read_pins(path)} | set(config.shelf.pinned)
    served = tuple(dict.fromkeys((*pinned, *(config.models or bundled_names()))))
    rows = [await _row(store, cache, name, live, pinned, named=name in config.models) for name in served]
    shown = {row["folder"] for row in rows}
    for kept in await trio.to_thread.run_sync(store.kept):
        if str(kept.folder.resolve()) not in shown:
            try:
                entry = await trio.to_thread.run_sync(read_folder, kept.folder, cache)
            except BadModel as exc:
                rows.append({**_words(str(kept.ref), None), "is": exc.flaw.value, "folder": str(kept.folder)})
            else:
                rows.append({**_words(str(kept.ref), entry), "is": "not served", "folder": entry.folder})
    return rows


async def _row(
    store: ModelStore, cache: DigestCache, name: str, live: dict[bytes, ModelHere], pinned: set[str], *, named: bool
) -> dict[str, object]:
    folder = await trio.to_thread.run_sync(store.require, name)
    try:
        entry = await trio.to_thread.run_sync(read_folder, folder, cache)
    except BadModel as exc:
        if named or exc.flaw is not Flaw.NOT_INSTALLED:
            raise
        return {**_words(name, None), "is": exc.flaw.value, "folder": str(folder)}
    at = live.get(entry.model)
    place = at.place if at else "to be served"
    if at.pinned if at else name in pinned:
        place += ", pinned"
    memory = at.cost if at and at.place == "warm" else None
    return {**_words(name, entry), "is": place, "memory_bytes": memory, "folder": entry.folder}


def _words(name: str, entry: ModelEntry | None) -> dict[str, object]:
    return {
        "model": entry.name if entry else name,
        "named": name,
        "pipeline": entry.pipeline if entry else None,
        "licence": entry.licence if entry else None,
        "weight_bytes": entry.weight_bytes if entry else None,
        "native_side": entry.native_side if entry else None,
        "max_side": entry.max_side if entry else None,
        "max_steps": entry.max_steps if entry else None,
        "model_hash": entry.model.hex() if entry else None,
        "is": "",
        "memory_bytes": None,
        "folder": "",
    }
