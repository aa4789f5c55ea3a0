"""A node's models, asked from outside over its local door: where each is, and pinning one.

What is pinned is kept in the data directory, so that the next start knows it too. Knows no command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import trio

from compute.capability import MAX_LOAD_MS, MAX_MODELS, MAX_SPEED, Capability
from compute.costbook import CostBook
from compute.digestcache import DigestCache
from compute.messages import ModelShelved
from compute.modelfolder import read_folder
from compute.modelref import MAX_REF, HubModel
from compute.modelstore import ModelStore
from compute.pins import read_pins, write_pin
from compute.served import read_folders
from compute.spec import VERIFY_STEP
from market.config import Config
from market.instance import MAX_INSTANCES, is_held
from market.localdoor import Answers, knock
from p2p.codec import Hash, Name, Range, Size, message
from p2p.errors import Misconfigured, Unavailable

OBEY_S = 2.0
PATIENCE_S = 60.0  # the model may have to be hashed


@message("models-question", 1)
@dataclass(frozen=True, slots=True)
class ModelsQuestion:
    """What do you serve, and where is it?"""


@dataclass(frozen=True, slots=True)
class ModelHere:
    """One model of a running node. ``place`` as its worker says, ``cost`` in bytes, measured once it was loaded."""

    model: Hash
    name: Name
    pipeline: Name
    place: Annotated[str, Size(1, 16)]
    pinned: bool
    cost: Annotated[int, Range(0, 2**53)]
    speed: Annotated[int, Range(0, MAX_SPEED)]
    load_ms: Annotated[int, Range(0, MAX_LOAD_MS)]


@message("models-here", 1)
@dataclass(frozen=True, slots=True)
class ModelsHere:
    """All models of a running node."""

    models: Annotated[tuple[ModelHere, ...], Size(0, MAX_MODELS)]


@message("pin-order", 1)
@dataclass(frozen=True, slots=True)
class PinOrder:
    """Keep this model loaded, or no longer. ``ref`` as an operator names it."""

    ref: Annotated[str, Size(1, 4 * MAX_REF)]
    pinned: bool


@message("pin-kept", 1)
@dataclass(frozen=True, slots=True)
class PinKept:
    """It is written down. ``now``: the running worker obeys; else it counts from the next start on."""

    model: Hash
    now: bool


@runtime_checkable
class Shelving(Protocol):
    """A machine whose models can be looked at and pinned."""

    def capability(self) -> Capability: ...
    def shelved(self) -> tuple[ModelShelved, ...]: ...
    def pin(self, model: bytes, pinned: bool) -> None: ...


def store_of(config: Config) -> ModelStore:
    """Where this machine's pulled models lie: all nodes of one home share them."""
    return ModelStore(config.home / "models")


def cache_of(config: Config) -> DigestCache:
    """The digests of weights, hashed once for all nodes of one home."""
    return DigestCache(config.home / "digests.json")


def costs_of(config: Config) -> CostBook:
    """What units cost on the devices of this machine, measured once for all nodes of one home."""
    return CostBook(config.home / "costs.json")


def model_answers(machine: object, data_dir: Path, config: Config) -> Answers:
    """What a node's door answers about its models; nothing for a machine that has none to show."""
    if not isinstance(machine, Shelving):
        return {}

    async def show(_: ModelsQuestion) -> ModelsHere:
        return here(machine)

    async def pin(order: PinOrder) -> PinKept:
        model = await trio.to_thread.run_sync(keep_pin, config, data_dir, order)
        if any(one.model == model for one in machine.shelved()):
            machine.pin(model, order.pinned)
        return PinKept(model, await _obeyed(machine, model, order.pinned))

    return {ModelsQuestion: show, PinOrder: pin}


async def _obeyed(machine: Shelving, model: bytes, pinned: bool) -> bool:
    """Whether the worker says soon that it has done so; it will not for a model that finds no room."""
    with trio.move_on_after(OBEY_S):
        while not any(one.model == model and one.pinned is pinned for one in machine.shelved()):
            if not any(one.model == model for one in machine.shelved()):
                return False
            await trio.sleep(OBEY_S / 100)
        return True
    return False


def here(machine: Shelving) -> ModelsHere:
    """What a machine serves, and where it is."""
    shelved = {one.model: one for one in machine.shelved()}
    found = []
    for entry in machine.capability().models:
        if entry.pipeline == VERIFY_STEP:  # which every model serves beside its own
            continue
        on = shelved.get(entry.model)
        place = on.place if on else "warm" if entry.warm else "cold"
        pinned, cost = (on.pinned, on.cost) if on else (False, 0)
        told = (entry.model, entry.name, entry.pipeline, place, pinned, cost)
        found.append(ModelHere(*told, entry.units_per_second, entry.load_ms))
    return ModelsHere(tuple(found))


def keep_pin(config: Config, data_dir: Path, order: PinOrder) -> bytes:
    """Check that the model can be served, and write it down; its hash. Raises Misconfigured. Blocks.

    What is unpinned need not be there any more; then the hash is of nothing.
    """
    store = store_of(config)
    if order.pinned:
        model = read_folders([store.require(order.ref)], cache_of(config)).entries[0].model
    elif order.ref in read_pins(data_dir):
        folder = store.find(store.parse(order.ref))
        model = read_folder(folder, cache_of(config)).model if folder is not None and folder.is_dir() else bytes(32)
    else:
        raise Misconfigured(f"{order.ref} is not pinned in {data_dir}")
    write_pin(data_dir, order.ref, order.pinned)
    return model


def data_dirs(config: Config) -> tuple[Path, ...]:
    """Data directories of orchestrators of this home that exist; the first one's, if there is none yet."""
    base = config.home / config.network
    candidates = [config.data_dir or base / f"orchestrator-{number}" for number in range(1, MAX_INSTANCES + 1)]
    found = tuple(dict.fromkeys(path for path in candidates if path.is_dir()))
    return found or (candidates[0],)


async def ask_models(config: Config) -> tuple[Path, ModelsHere] | None:
    """What the running orchestrator of this home serves; None when none runs."""
    for path in data_dirs(config):
        if path.is_dir():
            answer = await knock(path, ModelsQuestion(), PATIENCE_S)
            if isinstance(answer, ModelsHere):
                return path, answer
    return None


async def in_use(config: Config, ref: HubModel) -> str:
    """Who needs a pulled model, in words; empty when nobody does."""
    store = store_of(config)
    for path in data_dirs(config):
        for name in read_pins(path):
            pinned = store.parse(name)
            if isinstance(pinned, HubModel) and pinned.repo == ref.repo:
                return f"pinned in {path}"
    running = await ask_models(config)
    if running is not None:
        ours = [one.folder for one in store.kept() if one.ref.repo == ref.repo]
        hashes = {(await trio.to_thread.run_sync(read_folder, folder, cache_of(config))).model for folder in ours}
        if any(one.model in hashes for one in running[1].models):
            return f"served by the node of {running[0]}"
    return ""


async def order_pin(config: Config, order: PinOrder) -> tuple[Path, bool, bool]:
    """Pin or unpin: the data directory, whether a node runs there, whether it obeys at once."""
    found = data_dirs(config)
    for path in found:
        answer = await knock(path, order, PATIENCE_S) if path.is_dir() else None
        if isinstance(answer, PinKept):
            return path, True, answer.now
    if is_held(found[0]):
        raise Unavailable(f"the node of {found[0]} is starting and answers nobody yet; try again in a moment")
    found[0].mkdir(parents=True, exist_ok=True, mode=0o700)
    await trio.to_thread.run_sync(keep_pin, config, found[0], order)
    return found[0], False, False
