"""Standing: whether this node can be dialled, by what other peers found when they tried.

Private until somebody says otherwise; a single liar among three does not change it. Pure: time is ``now``; knows ports,
addresses and votes, and dials nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum

from p2p.peer import PeerId

MOST = 8  # votes that count, the newest of as many peers
LIFE = 3600.0  # seconds that a vote counts


class Reach(StrEnum):
    """What is known of this node's ports."""

    UNKNOWN = "unknown"  # nobody has tried: to be treated as private
    PRIVATE = "private"
    PUBLIC = "public"


class Standing:
    """Each peer has one vote, its last; the majority decides, and half is no majority."""

    def __init__(self) -> None:
        self._votes: OrderedDict[PeerId, tuple[float, tuple[str, ...]]] = OrderedDict()

    def vote(self, peer: PeerId, addrs: tuple[str, ...], now: float) -> None:
        """``peer`` tried to dial us and reached us at ``addrs``; at none, if it is empty."""
        self._votes.pop(peer, None)
        self._votes[peer] = (now, addrs)
        if len(self._votes) > MOST:
            self._votes.popitem(last=False)

    def reset(self) -> None:
        """Our addresses changed: nothing is known any more."""
        self._votes.clear()

    def reach(self, now: float) -> Reach:
        votes = self._living(now)
        if not votes:
            return Reach.UNKNOWN
        reached = sum(bool(addrs) for addrs in votes)
        return Reach.PUBLIC if 2 * reached > len(votes) else Reach.PRIVATE

    def addrs(self, now: float) -> tuple[str, ...]:
        """Where we were reached, what most peers named first; empty unless public."""
        if self.reach(now) is not Reach.PUBLIC:
            return ()
        named: dict[str, int] = {}
        for addrs in self._living(now):
            for addr in addrs:
                named[addr] = named.get(addr, 0) + 1
        return tuple(sorted(named, key=lambda addr: -named[addr]))

    def _living(self, now: float) -> list[tuple[str, ...]]:
        return [addrs for at, addrs in self._votes.values() if now - at < LIFE]
