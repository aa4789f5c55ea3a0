"""The library's own tables after ten thousand keys of one stranger: what is gone is forgotten, what is here is not."""

from __future__ import annotations

import gc
import time
import weakref
from collections import defaultdict
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2p.gossip import GossipSub
from p2p.hardening.forgetting import _CONNECTOR, _HOST, _ROUTER, _SWARM, KEPT, forget_neighbours, forget_strangers
from p2p.host import Host
from p2p.identity import Identity
from p2p.limits import give_memory_back

MANY = 10 * KEPT


def swarm_of(here: int) -> Any:
    table = {n: n for n in range(MANY)}
    return SimpleNamespace(
        connections={n: ["connection"] for n in range(here)} | {MANY - 1: []},
        auto_connector=SimpleNamespace(**{name: dict(table) for name in _CONNECTOR}),
        **{name: dict(table) for name in _SWARM},
    )


def test_who_is_gone_is_forgotten() -> None:
    swarm = swarm_of(here=5)
    host = SimpleNamespace(get_network=lambda: swarm, **{name: {n: n for n in range(MANY)} for name in _HOST})
    tables = len(_HOST) + len(_SWARM) + len(_CONNECTOR)
    assert forget_strangers(host) == tables * (MANY - 5)
    for owner, names in ((host, _HOST), (swarm, _SWARM), (swarm.auto_connector, _CONNECTOR)):
        assert all(set(getattr(owner, name)) == set(range(5)) for name in names)
    assert forget_strangers(host) == 0


def test_back_offs_end() -> None:
    until = {"over": time.time() - 1, "under way": time.time() + 60}
    sent = {"topic": [time.time()] * MANY}
    tables = {name: defaultdict(list) for name in _ROUTER}
    kept = {("peer", n): "message" for n in range(MANY)}
    router = SimpleNamespace(
        back_off={"topic": until}, recent_message_deliveries=sent, equivocation_detection=kept, **tables
    )
    assert forget_neighbours(router, set()) == 1
    assert set(until) == {"under way"}
    assert sent == {"topic": []}
    assert kept == {}


@pytest.mark.live
async def test_every_table_that_is_swept_is_there() -> None:
    """The library is pinned; a table that moved would be swept no more."""
    host = Host(Identity(sha256(b"forgetting").digest()), ("/ip4/127.0.0.1/tcp/0",))
    gossip = GossipSub(host, "pasar/test/")
    for owner, names in (
        (host.library, _HOST),
        (host._swarm, _SWARM),
        (host._swarm.auto_connector, _CONNECTOR),
        (gossip._router, _ROUTER),
    ):
        assert all(isinstance(getattr(owner, name), dict) for name in names)
    assert isinstance(gossip._router.recent_message_deliveries, dict)
    assert isinstance(gossip._router.equivocation_detection, dict)
    await trio.lowlevel.checkpoint()


class Holding:
    """What holds itself, as an error holds the call that it went through."""

    def __init__(self) -> None:
        self.itself = self


def test_what_holds_itself_is_freed_before_memory_is_given_back() -> None:
    made = Holding()
    gc.collect(0)  # it was looked at once: Python does so again after ten times as much
    held = weakref.ref(made)
    del made
    assert held() is not None
    give_memory_back()
    assert held() is None
