"""Sellers that do nothing but become busy and free again, several to a process: what the ``loads`` benchmark follows.

Each is a real host with the seller's end of the load stream. ``queue`` of its Load holds the time of its last change in
milliseconds, so that whoever hears it on this machine knows how old the news is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from hashlib import sha256
from random import Random

import trio

from benchmarks.neighbour import ANYWHERE
from market.console import configure_logs
from market.hello import Greeter
from market.loaddesk import LoadDesk
from market.offer import Load
from market.rolekit import PIPELINES
from p2p.host import Host
from p2p.identity import Identity
from p2p.limits import bound_recursion

WRAPS = 65_536  # milliseconds that ``queue`` can tell
SHORTEST_S, LONGEST_S = 0.5, 1.5  # between two changes of one seller


def seller(number: int) -> Identity:
    """The key of one seller, the same in every process."""
    return Identity(sha256(b"busy seller %d" % number).digest())


def stamp() -> int:
    """This moment, as a Load tells it."""
    return int(time.time() * 1000) % WRAPS


class BusySeller:
    """One seller whose one place is taken and left at random."""

    def __init__(self, number: int, network: str) -> None:
        self.host = Host(seller(number), (ANYWHERE,))
        self._load = Load(PIPELINES[0], 0, 1, stamp(), 0, ())
        self._chance = Random(number)
        greeter = Greeter(network, "orchestrator", lambda: None, time.time)
        self._desk = LoadDesk(self.host, greeter, look=lambda _: self._load, favours=lambda _: False)

    async def live(self) -> None:
        """Change until cancelled."""
        while True:
            await trio.sleep(self._chance.uniform(SHORTEST_S, LONGEST_S))
            self._load = Load(PIPELINES[0], 0, 1 - self._load.free, stamp(), 0, ())

    async def run(self, nursery: trio.Nursery) -> None:
        """Listen, answer, change."""
        await nursery.start(self.host.run)
        await nursery.start(self._desk.run)
        nursery.start_soon(self.live)


async def serve(given: argparse.Namespace) -> None:
    """Have them all listen, say READY."""
    sellers = [BusySeller(number, given.network) for number in range(given.first, given.first + given.sellers)]
    async with trio.open_nursery() as nursery:
        for one in sellers:
            await one.run(nursery)
        print("READY " + json.dumps({"addrs": [one.host.addrs()[0] for one in sellers]}), flush=True)
        await trio.sleep_forever()


def main() -> int:
    """Run until a signal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy_sellers")
    parser.add_argument("--network", required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--sellers", type=int, default=16)
    given = parser.parse_args()
    bound_recursion()
    configure_logs(as_json=False, level="info")
    try:
        trio.run(serve, given)
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
