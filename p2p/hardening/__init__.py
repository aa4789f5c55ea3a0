"""py-libp2p 0.8.1, made fit to meet strangers: every patch over the library, and the guard of a host.

    install()                       once in a process, before the first host is made
    install_guard(host, on_fault)   once for each host, before it runs
    choose_by(host, choice)         the same, where a host has a rule for several connections with one peer
    evict_dial_cache(host, peer)    before a dial that somebody asked for

The patches stand in ``PATCHES`` with what each of them cures; docs/adr/0003 and 0025 tell how each was found. Nothing
outside this package touches a private name of the library. It knows no offer, no protocol of ours, no configuration.
"""

from __future__ import annotations

from collections.abc import Collection

from p2p.hardening import (
    choosing,
    dialing,
    frames,
    gossiping,
    guard,
    inbound,
    intake,
    notices,
    prefixed,
    receiving,
    records,
    sending,
    straight,
    turns,
    wires,
)
from p2p.hardening.choosing import choose_by
from p2p.hardening.dialing import evict_dial_cache
from p2p.hardening.forgetting import forget_strangers
from p2p.hardening.guard import install_guard
from p2p.hardening.pinned import Patch, check_grounds, check_version
from p2p.hardening.quiet import Throttle, quieten

__all__ = [
    "MENDS",
    "PATCHES",
    "choose_by",
    "evict_dial_cache",
    "forget_strangers",
    "install",
    "install_guard",
    "installed",
]

# In this order: each wraps what those before it left.
_MODULES = (
    dialing,
    choosing,
    wires,
    inbound,
    frames,
    sending,
    straight,
    receiving,
    guard,
    turns,
    notices,
    prefixed,
    records,
    intake,
    gossiping,
)
PATCHES: dict[str, Patch] = {patch.name: patch for module in _MODULES for patch in module.PATCHES}
MENDS = frozenset(name for name, patch in PATCHES.items() if patch.speed)
_installed: set[str] = set()
_throttle: list[Throttle] = []


def install(*, without: Collection[str] = ()) -> None:
    """Put every patch in, once; a second call changes nothing.

    Raises Misconfigured, before anything is changed, when the installed library is not the one the patches were written
    for. ``without`` is for the tests, which show what each patch prevents, and for the benchmarks, which show what the
    ``MENDS`` save.
    """
    unknown = set(without) - set(PATCHES)
    if unknown:
        raise ValueError(f"no such patch: {', '.join(sorted(unknown))}")
    if _throttle:
        return
    check_version()
    check_grounds(PATCHES.values())
    _throttle.append(quieten())
    for name, patch in PATCHES.items():
        if name not in without:
            patch.apply()
            _installed.add(name)


def installed() -> frozenset[str]:
    """The names of the patches that are in."""
    return frozenset(_installed)
