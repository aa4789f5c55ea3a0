"""One value of every message, made from its own annotations, and the file that keeps the bytes of each.

    python -m tests.support.wire_values      adds what is missing to tests/vectors/wire-v1.json; changes nothing

Every field gets another value, so that two fields that change places change the bytes. A class that checks more than
its annotations say has its value written out here.
"""

from __future__ import annotations

import json
import types
from dataclasses import fields, is_dataclass
from enum import StrEnum
from importlib import import_module
from itertools import count
from pathlib import Path
from pkgutil import walk_packages
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import compute
import ledger
import market
import p2p
from p2p.codec import Range, Size, encode, registered, wire_name
from tests.support.market_values import shape, spec_on_files

VECTORS = Path(__file__).parent.parent / "vectors"
GOLDEN = VECTORS / "wire-v1.json"
OTHERS = ("market.json", "jobwire-v1.json", "ledger-v1.json")  # kept by the tests of their own families
UNTOUCHED = (
    "compute.training",
    "compute.pipelines",
    "compute.worker",
    "compute.device",
    "compute.footprint",
    "compute.replaying",
)  # need a model library
WRITTEN_OUT: dict[str, Any] = {"JobShape": shape(), "JobSpec": spec_on_files()}


def everything() -> dict[tuple[str, int], type]:
    """Every message of the product, by kind and version."""
    for package in (p2p, compute, ledger, market):
        for found in walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith(UNTOUCHED) or found.name in ("compute.workerlife", "compute.workerlink"):
                import_module(found.name)
    packages = ("p2p.", "compute.", "ledger.", "market.")
    return {name: cls for name, cls in sorted(registered().items()) if cls.__module__.startswith(packages)}


def example(cls: type) -> Any:
    """A value of ``cls``; the same in every run."""
    return _Maker().value(cls)


class _Maker:
    """Counts, so that no two fields are alike."""

    def __init__(self) -> None:
        self._next = count(1)

    def value(self, cls: type) -> Any:
        """A dataclass, its fields in order."""
        written = WRITTEN_OUT.get(cls.__name__)
        if written is not None:
            return written
        hints = get_type_hints(cls, include_extras=True)
        return cls(*(self._one(hints[field.name], None) for field in fields(cls)))

    def _one(self, hint: Any, bound: Size | Range | None) -> Any:
        origin = get_origin(hint)
        if origin is Annotated:
            inner, *marks = get_args(hint)
            return self._one(inner, bound or next((m for m in marks if isinstance(m, Size | Range)), None))
        if hasattr(hint, "__supertype__"):
            return self._one(hint.__supertype__, bound)
        if origin in (Union, types.UnionType):
            return self._one(next(arg for arg in get_args(hint) if arg is not type(None)), bound)
        if origin is tuple:
            return self._several(get_args(hint), bound)
        if is_dataclass(hint) and isinstance(hint, type):
            return self.value(hint)
        if issubclass(hint, StrEnum):
            return list(hint)[next(self._next) % len(hint)]
        return self._plain(hint, bound)

    def _several(self, args: tuple[Any, ...], bound: Size | Range | None) -> tuple[Any, ...]:
        if args[-1] is not Ellipsis:
            return tuple(self._one(arg, None) for arg in args)
        return tuple(self._one(args[0], None) for _ in range(max(1, bound.least if bound else 1)))

    def _plain(self, hint: type, bound: Size | Range | None) -> Any:
        number = next(self._next)
        if hint is bool:
            return number % 2 == 0
        if hint is int:
            return number if bound is None else min(bound.most, max(bound.least, number))
        size = 3 if bound is None else min(bound.most, max(bound.least, 3))
        return bytes([number]) * size if hint is bytes else (chr(96 + number % 26) * size)


def kept() -> dict[str, str]:
    """Kind and version of every message whose bytes are kept somewhere, and the bytes in hex."""
    found: dict[str, str] = {}
    for name in (*OTHERS, GOLDEN.name):
        if (VECTORS / name).exists():
            for kind, data in json.loads((VECTORS / name).read_text()).items():
                found[kind if "/" in kind else f"{kind}/1"] = data
    return found


def add_missing() -> list[str]:
    """Keep the bytes of what is new; the bytes that are kept already stay as they are."""
    known, here = kept(), json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    fresh = {f"{kind}/{version}": cls for (kind, version), cls in everything().items()}
    added = [name for name in fresh if name not in known]
    here |= {name: encode(example(fresh[name])).hex() for name in added}
    GOLDEN.write_text(json.dumps(here, indent=1, sort_keys=True) + "\n")
    return added


def name_of(cls: type) -> str:
    """``kind/version``."""
    kind, version = wire_name(cls)
    return f"{kind}/{version}"


if __name__ == "__main__":
    print("added:", *add_missing())
