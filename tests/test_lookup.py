"""Look-ups in a network with liars: a liar leads its own path astray, and the others arrive."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.lookup import ASKED_MOST, NEAREST, PATHS, Lookup, in_turn
from p2p.providers import distance

KEY = b"the provider key of today"
OWN = b"us"


def near(peer: bytes) -> int:
    return distance(peer, KEY)


class World:
    """Honest peers that know some others at random and the nearest of all; liars that know nobody but liars."""

    def __init__(self, honest: int, liars: int, seed: int) -> None:
        chance = Random(seed)
        self.honest = [b"honest %d" % n for n in range(honest)]
        # Ids cost nothing: the liars have tried a few for each that they use, and lie nearer to the key.
        tried = sorted((b"liar %d" % n for n in range(8 * liars)), key=near)
        self.liars = tried[:liars]
        nearest = sorted(self.honest, key=near)[:NEAREST]
        self.known = {peer: [*chance.sample(self.honest, min(10, honest)), *nearest] for peer in self.honest}
        self.holders = set(nearest)
        self.asked: list[bytes] = []

    def ask(self, peer: bytes) -> tuple[list[str], list[bytes]]:
        self.asked.append(peer)
        if peer in self.liars:
            return ["nobody"], self.liars
        return (["the seller"] if peer in self.holders else []), self.known[peer]


def walk(world: World, seeds: list[list[bytes]], paths: int = PATHS) -> list[list[str]]:
    lookup = Lookup(seeds, near, OWN, paths)
    found: list[list[str]] = [[] for _ in lookup.paths]
    moving = True
    while moving:
        moving = False
        for path in lookup.paths:
            peer = lookup.next(path)
            if peer is not None:
                claims, named = world.ask(peer)
                found[path] += claims
                lookup.heard(path, peer, named)
                moving = True
    assert len(world.asked) == len(set(world.asked)) <= paths * ASKED_MOST
    return found


@given(seed=st.integers(0, 10**6), liars=st.integers(1, 60), bad=st.integers(0, PATHS - 1))
@settings(deadline=None)
def test_one_honest_beginning_is_enough(seed: int, liars: int, bad: int) -> None:
    world = World(60, liars, seed)
    bad = min(bad, liars)
    seeds = [world.liars[:bad] + world.honest[: PATHS - bad]]
    assert "the seller" in in_turn(walk(world, seeds), 20)


def test_along_one_path_the_same_liars_win() -> None:
    world = World(60, 60, 1)
    seeds = [world.liars[:2] + world.honest[:1]]
    assert "the seller" not in in_turn(walk(world, seeds, paths=1), 20)
    assert "the seller" in in_turn(walk(World(60, 60, 1), seeds), 20)


def test_whom_we_trust_begins_every_path() -> None:
    crowd = [b"stranger %d" % n for n in range(100)]
    lookup = Lookup([[b"root 1", b"root 2", b"root 3"], crowd], near, OWN)
    assert all(sum(peer.startswith(b"root") for peer in known) == 1 for known in lookup._candidates)
    sizes = [len(known) for known in lookup._candidates]
    assert max(sizes) - min(sizes) <= 1


def test_with_one_seed_there_is_one_path_and_without_none() -> None:
    assert len(Lookup([[b"only", OWN]], near, OWN).paths) == 1
    empty: Lookup[bytes] = Lookup([[], []], near, OWN)
    assert list(empty.paths) == []
    assert empty.nearest() == []


def test_an_answer_without_end_is_read_to_its_twentieth_name() -> None:
    lookup = Lookup([[b"talker"]], near, OWN)
    assert lookup.next(0) == b"talker"
    lookup.heard(0, b"talker", (b"friend %d" % n for n in range(10**9)))
    assert len(lookup._candidates[0]) == 21


@pytest.mark.parametrize("most", [1, 4, 100])
def test_no_path_crowds_the_others_out(most: int) -> None:
    merged = in_turn([[f"liar {n}" for n in range(100)], ["honest"], []], most)
    assert merged[:2] == ["liar 0", "honest"][:most]
    assert len(merged) == min(most, 101)
