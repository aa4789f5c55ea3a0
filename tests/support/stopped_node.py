"""A host of its own process that serves an echo and its heartbeats, to be stopped by whoever started it."""

from __future__ import annotations

import json
import sys
import time
from hashlib import sha256

import trio

from p2p.gossip import GossipSub
from p2p.heartbeat import Heartbeat
from p2p.host import Host
from p2p.identity import Identity
from p2p.transport import Verdict
from tests.contracts.network import ECHO, echo

TOPIC = "pasar/stopped/offers"


async def main(seed: str) -> None:
    host = Host(Identity(sha256(seed.encode()).digest()), ("/ip4/127.0.0.1/tcp/0",))
    gossip = GossipSub(host, "pasar/stopped/")
    host.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        for runs in (host, gossip, Heartbeat(host, wall_time=time.time)):
            await nursery.start(runs.run)
        await gossip.join(TOPIC, lambda _peer, _data: Verdict.ACCEPT)
        print("READY " + json.dumps({"addrs": host.addrs()}), flush=True)
        async with gossip.subscribe(TOPIC) as inbox:
            async for heard in inbox:
                print(f"HEARD {heard.data.decode()}", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
