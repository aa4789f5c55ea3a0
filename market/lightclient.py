"""A light client's way into a network: join it serving nobody, look gateways up in the DHT and the address book.

It knows a bootstrap only, and takes gateways that delivered before first. What it then wants of them is the caller's.
"""

from __future__ import annotations

import time
from pathlib import Path

import trio

from market.config import Config
from market.hello import Greeter
from market.instance import meet
from market.overlay import Overlay, Wiring, open_book
from p2p.addresses import parse_target
from p2p.identity import load_or_create
from p2p.peer import PeerId

FIND_S = 20.0
ALONE_S = 2.0  # where nobody can be expected: no bootstrap named, none on this machine, none remembered
LOOK_S = 0.2
GATEWAYS_TRIED = 3


async def join(config: Config, path: Path, nursery: trio.Nursery) -> Overlay:
    """Be on the network, from the data directory ``path``; done means connected to a bootstrap where there is one."""
    point = meet(config.home, config.local_port, may_hold=False) if config.local_bootstrap else None
    identity = await load_or_create(path / "key.json", "", None, development=True)
    wiring = Wiring(
        network=config.network,
        listen=("/ip4/127.0.0.1/tcp/0",),
        announce=(),
        targets=tuple(parse_target(addr) for addr in config.bootstrap),
        local=point,
        kinds=(),
        wanted=("gateway",),
        server=False,
        lan=config.lan,
    )
    overlay = Overlay(identity, wiring, await open_book(path, time.time), time.time)
    await nursery.start(overlay.run)
    return overlay


def greeter_of(config: Config) -> Greeter:
    """How a light client says hello: it uses no chain."""
    return Greeter(config.network, "client", lambda: None, time.time)


async def find_gateways(overlay: Overlay, patience_s: float = FIND_S) -> list[PeerId]:
    """Connected gateways to try, those that delivered before first. Empty when none is found in time."""
    known = [target.peer for target in overlay.book.best(GATEWAYS_TRIED, kind="gateway")]
    with trio.move_on_after(ALONE_S if overlay.alone else patience_s):
        while True:
            found = [target.peer for target in await overlay.look_once()]
            alive = [peer for peer in dict.fromkeys([*known, *found]) if peer in overlay.host.connected()]
            if alive:
                return alive[:GATEWAYS_TRIED]
            await trio.sleep(LOOK_S)
    return []
