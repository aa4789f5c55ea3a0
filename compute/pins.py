"""Which models a node's operator has pinned: a small file in the node's data directory, read at its start. Shell.

Written by the node itself, or by a command while no node holds the directory. Knows no model, only what it was called.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from compute.modelref import MAX_REF
from p2p.errors import Misconfigured

FILE = "models.json"
MAX_PINS = 64
_MAX_BYTES = 2 * MAX_PINS * MAX_REF


def read_pins(data_dir: Path) -> tuple[str, ...]:
    """What was pinned, in order. Raises Misconfigured for a file that is not what we wrote."""
    path = data_dir / FILE
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as exc:
        raise Misconfigured(f"{path} cannot be read: {exc}; remove it, and pin again") from exc
    pinned = told.get("pinned") if isinstance(told, dict) else None
    if not isinstance(pinned, list) or not all(isinstance(one, str) and len(one) <= MAX_REF for one in pinned):
        raise Misconfigured(f"{path} is no list of pinned models; remove it, and pin again")
    return tuple(pinned[:MAX_PINS])


def write_pin(data_dir: Path, ref: str, pinned: bool) -> tuple[str, ...]:
    """Add or take away one, and keep that; what is pinned then. Raises Misconfigured."""
    known = [one for one in read_pins(data_dir) if one != ref]
    fresh = (*known, ref) if pinned else tuple(known)
    if len(fresh) > MAX_PINS:
        raise Misconfigured(f"{MAX_PINS} models are pinned already; unpin one")
    descriptor, name = tempfile.mkstemp(dir=data_dir, prefix=f".{FILE}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({"pinned": list(fresh)}, file)
        os.replace(name, data_dir / FILE)
    except OSError as exc:
        Path(name).unlink(missing_ok=True)
        raise Misconfigured(f"{data_dir / FILE} cannot be written: {exc.strerror}") from exc
    return fresh
