"""Lookup: the way to the peers nearest a key, along paths that share nobody.

An ordinary look-up asks whoever answers "I know somebody nearer", so one liar on the way leads all of it to its
friends. Here the peers to begin with are dealt out to several paths, a peer is asked by one path alone, and what a path
found is kept apart: liars lead astray the paths they are on and no other. Pure: whoever asks hands in the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Generic, TypeVar

PATHS = 3
ASKED_MOST = 20  # peers that one path asks
NAMED_MOST = 20  # of the peers named in one answer, so many count
NEAREST = 7  # a path is at its end when its nearest so many have been asked; three times that is Kademlia's k

Peer = TypeVar("Peer")
Found = TypeVar("Found")


class Lookup(Generic[Peer]):
    """Every peer is asked at most once, and by one path."""

    def __init__(
        self, seeds: Sequence[Sequence[Peer]], distance: Callable[[Peer], int], own: Peer, paths: int = PATHS
    ) -> None:
        """``seeds`` in groups, the most trusted first: each group is dealt out evenly, its nearest first."""
        self._distance = distance
        self._claimed: set[Peer] = {own}
        dealt: list[dict[Peer, None]] = [{} for _ in range(paths)]
        turn = 0
        for group in seeds:
            for seed in sorted(set(group) - {own}, key=distance):
                if all(seed not in path for path in dealt):
                    dealt[turn % paths][seed] = None
                    turn += 1
        self._candidates = [path for path in dealt if path]
        self._asked: list[list[Peer]] = [[] for _ in self._candidates]
        self._answered: list[list[Peer]] = [[] for _ in self._candidates]

    @property
    def paths(self) -> range:
        """Their numbers: as many as there were seeds for."""
        return range(len(self._candidates))

    def next(self, path: int) -> Peer | None:
        """Whom to ask next on this path; None when it is at its end for now."""
        known = self._candidates[path]
        if len(self._asked[path]) >= ASKED_MOST:
            return None
        for peer in sorted(known, key=self._distance)[: NEAREST + len(self._asked[path])]:
            if peer not in self._claimed:
                nearer = sum(self._distance(asked) < self._distance(peer) for asked in self._asked[path])
                if nearer >= NEAREST:
                    return None
                self._claimed.add(peer)
                self._asked[path].append(peer)
                return peer
        return None

    def heard(self, path: int, peer: Peer, named: Iterable[Peer]) -> None:
        """What ``peer`` said: that these are nearer. A peer that did not answer is not handed in."""
        self._answered[path].append(peer)
        for count, one in enumerate(named):
            if count >= NAMED_MOST:
                break
            if one not in self._claimed:
                self._candidates[path][one] = None

    def nearest(self, each: int = NEAREST) -> list[Peer]:
        """Of each path the nearest that answered."""
        return [
            peer for answered in self._answered for peer in sorted(answered, key=self._distance)[:each]
        ]  # fmt: skip


def in_turn(found: Sequence[Iterable[Found]], most: int) -> list[Found]:
    """One of each path after the other, each thing once: no path can crowd the others out."""
    merged: dict[Found, None] = {}
    for row in zip_longest(*found):
        for one in row:
            if one is not None:
                merged[one] = None
    return list(merged)[:most]
