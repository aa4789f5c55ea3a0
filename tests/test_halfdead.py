"""Half-dead neighbours for real: a process that is stopped is dropped by its peers, and comes back into the mesh."""

from __future__ import annotations

import signal
import time
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from p2p.addresses import parse_target
from p2p.gossip import GossipSub
from p2p.heartbeat import Heartbeat
from p2p.host import Host
from p2p.identity import Identity
from p2p.keeper import Keeper
from p2p.transport import Verdict
from tests.contracts.network import until
from tests.support.processes import Process, local_market
from tests.support.stopped_node import TOPIC

pytestmark = [pytest.mark.prove, pytest.mark.live]


async def test_a_stopped_process_is_dropped_and_meets_the_mesh_again(tmp_path: Path) -> None:
    with local_market(tmp_path) as market:
        far = market.start("far", script="tests/support/stopped_node.py")
        there = parse_target(far.ready()["addrs"][0])
        host = Host(Identity(sha256(b"near").digest()), ("/ip4/127.0.0.1/tcp/0",))
        gossip, keeper = GossipSub(host, "pasar/stopped/"), Keeper(host)
        async with trio.open_nursery() as nursery:
            for runs in (host, gossip, keeper, Heartbeat(host, wall_time=time.time)):
                await nursery.start(runs.run)
            await gossip.join(TOPIC, lambda _peer, _data: Verdict.ACCEPT)
            await keeper.meet([there])
            await until(lambda: there.peer in gossip.mesh(TOPIC))
            await heard(gossip, far, "before")
            far.signal(signal.SIGSTOP)
            await until(lambda: there.peer not in host.connected() | gossip.mesh(TOPIC), 60)
            far.signal(signal.SIGCONT)
            await until(lambda: there.peer in host.connected() and there.peer in gossip.mesh(TOPIC), 150)
            await heard(gossip, far, "after")
            nursery.cancel_scope.cancel()


async def heard(gossip: GossipSub, far: Process, what: str) -> None:
    """Publish until the far process says that it heard it."""
    for number in range(50):
        await gossip.publish(TOPIC, f"{what} {number}".encode())
        await trio.sleep(0.2)
        if any(line.startswith(f"HEARD {what}") for line in far.stdout):
            return
    raise AssertionError(f"never heard {what!r}\n{far.tail()}")
