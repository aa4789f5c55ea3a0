"""What a patch is, and the proof that the library it patches is the one it was written for.

Knows no single patch. A patch that is put over code nobody has read is worse than none, so every replaced function is
compared with the fingerprint of the source it had when the patch was written, before anything is replaced.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from p2p.errors import Misconfigured

PINNED = "0.8.1"
_ADVICE = f"install libp2p=={PINNED}; another version needs p2p/hardening/ to be read against it again"


@dataclass(frozen=True, slots=True)
class Ground:
    """One function that a patch replaces or relies on, and the fingerprint of its source."""

    owner: Any
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Patch:
    """One cure. ``apply`` is called at most once in a process, after every ground of every patch was checked.

    ``speed``: it saves time, and the benchmarks measure how much by leaving it out.
    """

    name: str
    cures: str
    grounds: tuple[Ground, ...]
    apply: Callable[[], None]
    speed: bool = False


def fingerprint(function: Any) -> str:
    """Sixteen hex digits of the SHA-256 of a function's source text. Raises Misconfigured when there is none."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError) as exc:
        raise Misconfigured(f"the source of libp2p cannot be read, so it cannot be checked: {_ADVICE}") from exc
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def check_version() -> None:
    """Raises Misconfigured unless the installed libp2p is the pinned one."""
    try:
        found = version("libp2p")
    except PackageNotFoundError:
        found = "none"
    if found != PINNED:
        raise Misconfigured(f"found libp2p {found}: {_ADVICE}")


def check_grounds(patches: Iterable[Patch]) -> None:
    """Raises Misconfigured when a function that a patch stands on is not the one that was read."""
    for patch in patches:
        for ground in patch.grounds:
            found = getattr(ground.owner, ground.name, None)
            where = f"{ground.owner.__name__}.{ground.name}"
            if found is None:
                raise Misconfigured(f"{patch.name}: libp2p has no {where}: {_ADVICE}")
            if fingerprint(found) != ground.fingerprint:
                raise Misconfigured(f"{patch.name}: {where} reads {fingerprint(found)}: {_ADVICE}")
