"""A neighbour with a full book, as a process: the real host, gossip and hand-over, with offers that it signs itself.

What it says is what any node says; the sellers of its offers exist as keys alone. Buys and sells nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trio

from compute.spec import Quality, Verification
from ledger.money import GWEI, Settlement
from market.bookfeed import BookFeed
from market.console import configure_logs
from market.hello import Greeter
from market.offer import ModelOffer, Offer
from market.overlay import Overlay, Wiring, open_book
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.errors import Misconfigured
from p2p.identity import Identity
from p2p.limits import bound_recursion
from p2p.peer import parse_address
from p2p.transport import Verdict

ANYWHERE = "/ip4/127.0.0.1/tcp/0"
MODELS = 40  # in all the offers together
MOST_MODELS = 5  # of one offer


def offers(many: int, network: str, settlement: Settlement, seed: int) -> Iterator[Signed]:
    """So many signed offers by as many sellers, the same for the same seed but for their time."""
    chance = Random(seed)
    sellers = (Identity(chance.randbytes(32)) for _ in range(many))
    return (envelope for _, envelope in offers_by(sellers, network, settlement, seed))


def offers_by(
    sellers: Iterable[Identity], network: str, settlement: Settlement, seed: int, models_in_all: int = MODELS
) -> Iterator[tuple[Offer, Signed]]:
    """An offer of each of these, and its envelope."""
    chance = Random(seed)
    names = [(chance.randbytes(32), f"model {number}") for number in range(models_in_all)]
    for who in sellers:
        models = tuple(
            ModelOffer(
                name=name,
                model=model,
                native_side=512,
                max_side=1024,
                max_steps=100,
                dtype="fp16",
                quality=Quality.EXACT,
                warm=chance.random() < 0.5,
                speed=chance.randrange(10**6, 10**9),
                load_ms=chance.randrange(1000, 20_000),
            )
            for model, name in chance.sample(names, chance.randint(1, MOST_MODELS))
        )
        made = Offer(
            network=network,
            settlement=settlement,
            seller=who.peer,
            serial=1,
            pipeline=PIPELINES[0],
            models=models,
            price=chance.randrange(50, 500) * GWEI,
            slots=1,
            verification=(Verification.NONE, Verification.RECEIPT, Verification.TRACE),
            payout=who.address,
            refresh_s=3600,
            issued_at=int(time.time()),
        )
        yield made, sign(made, who)


async def serve(given: argparse.Namespace, folder: Path) -> None:
    """Fill the book, be on the network, say READY."""
    settlement = Settlement(given.chain, parse_address(given.broker))
    targets = tuple(parse_target(addr) for addr in given.bootstrap)
    wiring = Wiring(given.network, (ANYWHERE,), (), targets, None, ("bootstrap",), ())
    overlay = Overlay(Identity.fresh(development=True), wiring, await open_book(folder, time.time), time.time)
    greeter = Greeter(given.network, "bootstrap", lambda: settlement, time.time)
    feed = BookFeed(overlay.host, overlay.gossip, greeter, PIPELINES, time.time)
    for envelope in offers(given.offers, given.network, settlement, given.seed):
        if feed.book.judge(encode(envelope), feed.now(), PIPELINES[0]) is not Verdict.ACCEPT:
            raise Misconfigured("an offer that the book does not take")
    async with trio.open_nursery() as nursery:
        await nursery.start(overlay.run)
        await nursery.start(feed.run)
        await overlay.put_records()
        print("READY " + json.dumps({"addrs": overlay.host.addrs(), "offers": feed.book.known()}), flush=True)
        await trio.sleep_forever()


def main() -> int:
    """Run until a signal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbour")
    parser.add_argument("--network", required=True)
    parser.add_argument("--chain", type=int, required=True)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--bootstrap", action="append", default=[])
    parser.add_argument("--offers", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    bound_recursion()
    configure_logs(as_json=False, level="info")
    with TemporaryDirectory(prefix="pasar-bench-") as folder:
        try:
            trio.run(serve, given, Path(folder))
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
