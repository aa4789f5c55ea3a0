"""Redials: whom to dial now, of the peers that are wanted and not connected.

A new one at once; one that was lost or did not answer after a pause that doubles from one second to a minute, each with
its own jitter. The pause begins anew only after a connection that lasted. Pure: time and chance are arguments.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from p2p.peer import PeerId
from p2p.transport import PeerAddrs

FIRST, LONGEST = 1.0, 60.0
STEADY = 30.0  # seconds after which a connection counts as one that lasted
MOST = 256


@dataclass(slots=True)
class _Wanted:
    target: PeerAddrs
    due: float
    pause: float = FIRST
    since: float | None = None  # connected


class Redials:
    """At most ``most`` are wanted; the one wanted anew least recently and not connected goes first."""

    def __init__(self, *, most: int = MOST) -> None:
        self.most = most
        self._wanted: OrderedDict[PeerId, _Wanted] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, peer: object) -> bool:
        return peer in self._wanted

    def want(self, target: PeerAddrs, now: float) -> None:
        """Be connected with this peer from now on. New addresses count at once, its pause goes on."""
        known = self._wanted.get(target.peer)
        if known is None:
            self._wanted[target.peer] = _Wanted(target, now)
            if len(self._wanted) > self.most:
                gone = next((peer for peer, wanted in self._wanted.items() if wanted.since is None), None)
                self._wanted.pop(gone if gone is not None else next(iter(self._wanted)))
            return
        if set(target.addrs) - set(known.target.addrs):
            known.due = min(known.due, now + FIRST)
        known.target = target
        self._wanted.move_to_end(target.peer)

    def forget(self, peer: PeerId) -> None:
        """It is wanted no more."""
        self._wanted.pop(peer, None)

    def met(self, peer: PeerId, now: float) -> None:
        """It is connected."""
        if (wanted := self._wanted.get(peer)) and wanted.since is None:
            wanted.since = now

    def missed(self, peer: PeerId, now: float, chance: float) -> None:
        """A dial failed, or a connection ended. ``chance`` is in [0, 1)."""
        wanted = self._wanted.get(peer)
        if wanted is None:
            return
        if wanted.since is not None and now - wanted.since >= STEADY:
            wanted.pause = FIRST
        wanted.since = None
        wanted.due = now + wanted.pause * (0.5 + chance)
        wanted.pause = min(LONGEST, 2 * wanted.pause)

    def wake(self, now: float) -> None:
        """Everything is different from now on: nobody waits any more."""
        for wanted in self._wanted.values():
            wanted.due, wanted.pause = now, FIRST

    def due(self, now: float, connected: Collection[PeerId], most: int) -> tuple[PeerAddrs, ...]:
        """At most ``most`` to dial now, those that wait longest first."""
        ready = [w for peer, w in self._wanted.items() if peer not in connected and w.due <= now]
        ready.sort(key=lambda wanted: wanted.due)
        return tuple(wanted.target for wanted in ready[: max(0, most)])

    def next_due(self, connected: Collection[PeerId]) -> float:
        """When somebody is due next; never without end when somebody waits."""
        return min((w.due for peer, w in self._wanted.items() if peer not in connected), default=float("inf"))
