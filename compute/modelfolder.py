"""From a model folder to its entry: finds the reader for its kind, reads strictly, hashes once. Shell.

A kind of model is the class that its ``model_index.json`` names, or the architecture of its ``config.json``. Who reads
it is found under that name in the entry-point group ``pasar.readers``, or here: a function of a StrictFolder, the
parsed index and a DigestCache that gives a ModelEntry. Readers import no model library: the node calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from compute.catalog import PIPELINE_OF_CLASS, ModelEntry, WeightFile, components, kind_of, licence_of, read_entry
from compute.checkerfolder import KIND as CHECKERS
from compute.checkerfolder import read_checker
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.plainmodels import KINDS
from compute.strictfolder import StrictFolder, own_words

GROUP = "pasar.readers"
Reader = Callable[[StrictFolder, Mapping[str, Any], DigestCache], ModelEntry]
READERS = {  # kind -> "module:function" for kinds that are no diffusers pipeline of ours
    **dict.fromkeys(KINDS, "compute.plainmodels:read_plain"),
    "pasar-encoder": "compute.encodermodel:read_encoder",
}
INDEXES = ("model_index.json", "config.json")


def bundled(name: str = "tiny") -> Path:
    """The folder of a model that ships with the package. It may be absent in a bare checkout."""
    return Path(str(package_files("compute"))) / "models" / name


def bundled_names() -> tuple[str, ...]:
    """The models that ship with the package."""
    folder = bundled().parent
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if any((path / index).is_file() for index in INDEXES)))


def read_folder(folder: Path, cache: DigestCache | None = None) -> ModelEntry:
    """The entry of one local model folder. Raises BadModel with the reason. Blocks: hashes files."""
    strict = StrictFolder(folder)
    name = next((index for index in INDEXES if strict.has(index)), None)
    if name is None:
        raise BadModel(
            Flaw.NO_MODEL, f"{strict.path} is no model folder: it has no model_index.json and no config.json"
        )
    strict.check()
    index = strict.json(name)
    return reader_of(kind_of(index))(strict, index, cache or DigestCache())


def reader_of(kind: str) -> Reader:
    """Who reads models of this kind. Raises BadModel for one that nothing here serves."""
    found = next(iter(entry_points(group=GROUP, name=kind)), None)
    if found is not None:
        loaded: Reader = found.load()
        return loaded
    if kind in READERS:
        module, _, attribute = READERS[kind].partition(":")
        built_in: Reader = getattr(import_module(module), attribute)
        return built_in
    if kind in PIPELINE_OF_CLASS:
        return read_diffusion
    if kind.endswith(CHECKERS):
        return read_checker
    served = ", ".join(sorted({*PIPELINE_OF_CLASS, *READERS}))
    raise BadModel(Flaw.UNSERVED, f"no pipeline serves a {kind}; served are {served}")


def read_diffusion(folder: StrictFolder, index: Mapping[str, Any], cache: DigestCache) -> ModelEntry:
    """A diffusers pipeline: a folder of parts, each with its configuration and its weights."""
    configs: dict[str, Mapping[str, Any]] = {}
    weights: list[WeightFile] = []
    numbers = 0
    for part in components(index):
        folder.check(part)
        for name in ("scheduler_config.json", "config.json"):
            if folder.has(f"{part}/{name}"):
                configs[part] = folder.json(f"{part}/{name}")
        found, count = folder.weights(cache, part)
        weights, numbers = weights + found, numbers + count
    own = own_words(folder)
    licence = licence_of(own, folder.card())
    return read_entry(str(folder.path), index, configs, own, tuple(weights), numbers=numbers, licence=licence)
