"""The same over real connections: whoever sends wrong bytes is shut out, and the others are served."""

from __future__ import annotations

import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from ledger.cover import MemoryCover
from ledger.journal import Journal
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from market import jobwire as wire
from market.bookfeed import BookFeed
from market.hello import Greeter
from market.keeping import Keeping
from market.offering import Terms
from market.orchestrator import Orchestrator, Supplies
from market.prefilter import SMALL_JOB_DEVELOPMENT
from market.protocol import CONTROL, JOB
from market.quote import RFQ, Quote, QuoteRefusal, late_rate_for
from p2p.envelope import Signed, sign
from p2p.errors import PasarError
from p2p.host import Host
from p2p.identity import Identity
from p2p.peer import PeerId
from p2p.scores import COST, GRAYLIST, Fault
from p2p.stream import JOB_FRAME, MessageStream
from tests.contracts.network import target, until
from tests.support.hostile import SHAPE, SPEC
from tests.support.market_values import NETWORK, PIPELINE, SETTLEMENT
from tests.support.marketplace import known

pytestmark = pytest.mark.live
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


def key(number: int) -> Identity:
    return Identity(sha256(b"hostile host %d" % number).digest())


class NoGossip:
    """Nobody is told of any offer."""

    async def join(self, topic: str, judge: object) -> None: ...
    async def publish(self, topic: str, data: bytes) -> None: ...


async def seller_on(host: Host, who: Identity, folder: Path, nursery: trio.Nursery) -> Orchestrator:
    journal, gossip, cover = Journal(folder / "journal.db"), NoGossip(), MemoryCover()
    await nursery.start(journal.run)
    greeter = Greeter(NETWORK, "orchestrator", lambda: SETTLEMENT, time.time)
    books = ReceivingBooks(journal, who, SETTLEMENT, ReceivingTerms(), cover)
    await books.load()
    orchestrator = Orchestrator(
        Supplies(
            signer=who,
            network=host,
            gossip=gossip,  # type: ignore[arg-type]
            greeter=greeter,
            feed=BookFeed(host, gossip, greeter, (PIPELINE,), time.time),  # type: ignore[arg-type]
            machine=NoopWorker(),
            journal=journal,
            books=books,
            cover=cover,
            look_up=known,
            keeping=Keeping(folder / "sealed"),
            terms=Terms(1000, 1, SETTLEMENT, who.address),
            small_job=SMALL_JOB_DEVELOPMENT,
            development=True,
            wall_time=time.time,
        )
    )
    await nursery.start(orchestrator.run)
    return orchestrator


async def say(host: Host, peer: PeerId, protocol: str, *said: Any) -> Any:
    """What is answered first, or the error that the stream ends with."""
    try:
        raw = await host.open(peer, protocol)
        stream = MessageStream(raw, JOB_FRAME if protocol == JOB else 256 * 1024)
        await Greeter(NETWORK, "gateway", lambda: None, time.time).say(stream)
        for one in said:
            await (raw.send(one) if isinstance(one, bytes) else stream.send(one))
        await stream.receive(timeout=5)  # their hello
        return await stream.receive(timeout=5)
    except PasarError as exc:
        return exc


async def test_wrong_bytes_shut_a_peer_out_and_nobody_else(tmp_path: Path) -> None:
    ours, bad, good = (key(n) for n in range(3))
    host, there, honest = (Host(who, LOOPBACK) for who in (ours, bad, good))
    rfq = RFQ(b"n" * 16, NETWORK, SETTLEMENT, SHAPE, 1000)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for one in (host, there, honest):
                await nursery.start(one.run)
            await seller_on(host, ours, tmp_path, nursery)
            await there.connect(target(host))
            await honest.connect(target(host))
            assert isinstance(await say(there, host.peer, CONTROL, rfq), Signed)
            price = 1000
            forged = Quote(
                b"r" * 32, NETWORK, SETTLEMENT, host.peer, there.peer, price, 5000, 0, late_rate_for(price), 1, 0
            )
            award = wire.Award(
                b"j" * 32, 1, SETTLEMENT, sign(forged, bad), price, 5000, late_rate_for(price), 9000, 0, SPEC
            )
            lies: list[tuple[str, Any]] = [
                (JOB, award),
                (JOB, wire.Start(b"j" * 32, 1)),
                (CONTROL, award),
                (CONTROL, b"\xff\xff\xff\xff"),
                (JOB, b"\0\0\0\1\xc1"),
            ]
            for number in range(int(-GRAYLIST / COST[Fault.PROTOCOL]) + 1):
                protocol, lie = lies[number % len(lies)]
                assert isinstance(await say(there, host.peer, protocol, lie), PasarError | None)
            await until(lambda: host.scores.graylisted(there.peer, trio.current_time()))
            assert isinstance(await say(there, host.peer, CONTROL, rfq), PasarError | None)
            other = replace(rfq, nonce=b"o" * 16)
            assert isinstance(await say(honest, host.peer, CONTROL, other), Signed | QuoteRefusal)
            assert host.scores.score(honest.peer, trio.current_time()) == 0
            nursery.cancel_scope.cancel()
