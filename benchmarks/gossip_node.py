"""One node of the ``gossip`` benchmark: the real host and gossip of a Pasar node, and nothing of the market.

    python -m benchmarks.gossip_node INDEX [PATCH,PATCH,...]

The patches named are left out. It says READY with its addresses, then does what each line on stdin asks for and
answers with one line: ``dial`` others, ``mesh`` waits for neighbours, ``send`` publishes and listens for a while.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
from typing import Any

import structlog
import trio

from p2p import hardening
from p2p.addresses import parse_target
from p2p.errors import Unavailable
from p2p.gossip import GossipSub
from p2p.host import Host
from p2p.identity import Identity
from p2p.transport import Verdict

TOPIC = "bench/offers/any"
SIZE = 256  # bytes of a message
HEAD = 14  # of them: sender, number, time
GRACE = 3.0  # seconds that the last messages of a run have


class Node:
    """Publishes at even steps of its own, and notes the age of each message that comes."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.host = Host(Identity.fresh(development=True), ("/ip4/127.0.0.1/tcp/0",))
        self.gossip = GossipSub(self.host, "bench/")
        self.got = list[tuple[int, int, float]]()
        self.number = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.gossip.run)
            await nursery.start(self.host.run)
            await self.gossip.join(TOPIC, lambda _peer, _data: Verdict.ACCEPT)
            nursery.start_soon(self._listen)
            say("READY " + json.dumps({"addrs": self.host.addrs()}))
            async for line in lines():
                asked = json.loads(line)
                answer = await getattr(self, f"do_{asked.pop('do')}")(**asked)
                say(json.dumps(answer))
            nursery.cancel_scope.cancel()

    async def do_dial(self, addrs: list[str]) -> int:
        """Be connected with these; to how many of them it is."""
        found = 0
        for addr in addrs:
            try:
                await self.host.connect(parse_target(addr))
                found += 1
            except Unavailable:
                continue
        return found

    async def do_mesh(self, least: int) -> int:
        """Wait until there are so many neighbours; how many there are."""
        while len(self.gossip.mesh(TOPIC)) < least:  # noqa: ASYNC110 - the library has no event for it
            await trio.sleep(0.2)
        return len(self.gossip.mesh(TOPIC))

    async def do_send(self, every: float, seconds: float) -> dict[str, Any]:
        """Publish one message each ``every`` seconds; how many, the ages in ms of what came, and the CPU it took."""
        self.got.clear()
        spent, started, sent = time.process_time(), trio.current_time(), 0
        at = started + random.random() * every
        while at < started + seconds:
            await trio.sleep_until(at)
            await self.gossip.publish(TOPIC, self._message())
            sent += 1
            at += every
        await trio.sleep_until(started + seconds + GRACE)
        unique = {(sender, number): age for sender, number, age in reversed(self.got)}
        return {"sent": sent, "ages": list(unique.values()), "cpu": time.process_time() - spent}

    def _message(self) -> bytes:
        self.number += 1
        head = self.index.to_bytes(2, "big") + self.number.to_bytes(4, "big") + time.monotonic_ns().to_bytes(8, "big")
        return head + os.urandom(SIZE - HEAD)

    async def _listen(self) -> None:
        async with self.gossip.subscribe(TOPIC) as messages:
            async for message in messages:
                now, head = time.monotonic_ns(), message.data[:HEAD]
                age = (now - int.from_bytes(head[6:], "big")) / 1e6
                self.got.append((int.from_bytes(head[:2], "big"), int.from_bytes(head[2:6], "big"), age))


def say(text: str) -> None:
    print(text, flush=True)


async def lines() -> Any:
    """What is asked, line by line, until nobody asks any more."""
    held = b""
    stdin = trio.lowlevel.FdStream(os.dup(0))
    async for piece in stdin:
        held += piece
        *whole, held = held.split(b"\n")
        for line in whole:
            yield line


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    hardening.install(without=[name for name in (sys.argv[2] if len(sys.argv) > 2 else "").split(",") if name])
    try:
        trio.run(Node(int(sys.argv[1])).run)
    except KeyboardInterrupt:
        sys.exit(0)
