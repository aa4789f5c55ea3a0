"""Neighbours: whose book to ask for next: whoever was not asked for longest, and not one that just failed.

Pure: ``now`` is seconds of a steady clock. Knows no book.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set

from p2p.peer import PeerId

SET_ASIDE_S, MAX_SET_ASIDE_S = 0.5, 600.0  # one that has no book to give, doubled each time: most often a light client
FAULT_S = 3600.0
MAX_KNOWN = 4096


class Neighbours:
    """Takes turns. At most ``MAX_KNOWN`` are remembered; the one whose turn is longest ago is forgotten first."""

    def __init__(self) -> None:
        self._asked: OrderedDict[PeerId, float] = OrderedDict()
        self._until: dict[PeerId, float] = {}
        self._failed: dict[PeerId, int] = {}

    def next(self, connected: Set[PeerId], now: float) -> PeerId | None:
        """Whose turn it is among those connected; None when there is nobody to ask."""
        free = [peer for peer in connected if self._until.get(peer, now) <= now]
        if not free:
            return None
        peer = min(free, key=lambda one: (self._asked.get(one, -1.0), one))
        self._asked[peer] = now
        self._asked.move_to_end(peer)
        if len(self._asked) > MAX_KNOWN:
            forgotten, _ = self._asked.popitem(last=False)
            self._until.pop(forgotten, None)
            self._failed.pop(forgotten, None)
        return peer

    def gave(self, peer: PeerId) -> None:
        """It has a book to give."""
        self._failed.pop(peer, None)
        self._until.pop(peer, None)

    def set_aside(self, peer: PeerId, now: float, *, fault: bool = False) -> None:
        """It had no book to give, or broke a rule: not asked again for a while, each time longer."""
        if peer not in self._asked:
            return
        failed = self._failed[peer] = self._failed.get(peer, 0) + 1
        aside = FAULT_S if fault else min(MAX_SET_ASIDE_S, SET_ASIDE_S * 2 ** min(failed - 1, 16))
        self._until[peer] = now + aside
