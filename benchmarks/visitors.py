"""Visitors: honest strangers who come in numbers, look around, and go, as on any busy day of a node.

The first hundred connections of a fresh process make it larger whoever comes: code that is loaded when it is first
needed, caches that fill up to their bounds, memory that Python keeps for the next time. To see what an attack leaves
behind, a node is to have had its share of honest ones before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import trio

from market.bookwire import BookAsk
from market.hello import Greeter
from market.protocol import BOOK_1, STREAMS
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.errors import PasarError
from p2p.host import Host
from p2p.identity import Identity
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs

AT_ONCE = 20  # below what one address may open in a burst
STAY_S = 2.0  # and then as many again, so that their rate is what one address may have
PAGE = 32


async def visits(network: str, addrs: Sequence[str], rounds: int) -> int:
    """So many rounds of visitors at each address; how many of their questions were answered."""
    answered = 0
    greeter = Greeter(network, "gateway", lambda: None, time.time)
    for _ in range(rounds):
        answered += await _round(greeter, [parse_target(addr) for addr in addrs])
    return answered


async def _round(greeter: Greeter, targets: Sequence[PeerAddrs]) -> int:
    answers = list[object]()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            host = Host(Identity.fresh(development=True), ())
            await nursery.start(host.run)
            for target in targets:
                nursery.start_soon(_visit, host, greeter, target, answers)
        await trio.sleep(STAY_S)
        nursery.cancel_scope.cancel()
    return len(answers)


async def _visit(host: Host, greeter: Greeter, target: PeerAddrs, answers: list[object]) -> None:
    """Connect, say hello, read a page of the book."""
    with suppress(PasarError):
        await host.connect(target)
        stream = MessageStream(await host.open(target.peer, BOOK_1), STREAMS[BOOK_1])
        await greeter.say(stream)
        await greeter.hear(stream)
        await stream.send(BookAsk(PIPELINES[0], None, PAGE))
        answers.append(await stream.receive(timeout=STAY_S))
