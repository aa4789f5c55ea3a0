"""Choosing: which of several connections with one peer a new stream is opened on.

Knows no rule of its own beyond "the newest that lives"; a host may put its own in with ``choose_by``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID

from p2p.hardening.pinned import Ground, Patch

Choice = Callable[[list[Any]], Any]
_CHOICE = "pasar_choice"  # the attribute of a swarm that holds its rule


def choose_by(host: Any, choice: Choice) -> None:
    """Let ``choice`` name one of several connections with a peer, given oldest first; call it before the host runs."""
    setattr(host.get_network(), _CHOICE, choice)


def _newest(connections: list[Any]) -> Any:
    return connections[-1]


def _select_connection(self: Any, connections: list[Any], _peer_id: ID) -> Any:
    """One that lives, the newest unless the host has a rule.

    Stock takes the one with the most open streams. A peer whose way to us died silently, as behind a NAT that forgot,
    dials again, and stock sends every new stream to the dead connection: each one that hangs there makes it heavier.
    """
    if not connections:
        raise ValueError("no connections to choose from")
    living = [conn for conn in connections if not conn.is_closed and not conn.muxed_conn.event_shutting_down.is_set()]
    choice: Choice = getattr(self, _CHOICE, _newest)
    return choice(living or connections)


def _newest_connection() -> None:
    Swarm._select_connection = _select_connection


PATCHES = (
    Patch(
        "newest-connection",
        "new streams to a peer that dialled again go to its dead connection",
        (
            Ground(Swarm, "_select_connection", "c2e8aec487d3b012"),
            Ground(Swarm, "new_stream", "125812a9745b972b"),
            Ground(Swarm, "add_conn", "d469d71b3ed1f4df"),  # appends: the newest is last
        ),
        _newest_connection,
    ),
)
