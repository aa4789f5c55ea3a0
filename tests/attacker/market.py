"""In the market: questions without a purchase, awards without a quote, bids that nobody waits for, replays."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio

from compute.spec import JobShape, JobSpec
from market import jobwire as wire
from market.bid import Bid
from market.bidwire import BidTaken, CancelBid
from market.protocol import BID, CONTROL, JOB
from market.quote import RFQ, Quote
from p2p.codec import encode
from p2p.envelope import Signed, open_signed
from p2p.errors import PasarError
from p2p.framing import frame
from tests.attacker.stand import PIPELINE, Act, Stand, token


def shape(stand: Stand, steps: int = 4) -> JobShape:
    offer, _ = stand.offers[0]
    return JobShape(PIPELINE, offer.models[0].model, 64, 64, steps, guided=True)


def spec(stand: Stand, steps: int = 4) -> JobSpec:
    return JobSpec(shape(stand, steps), "an attack", "", 4000, 7, token())


async def rfq_flood(stand: Stand) -> None:
    """Ask for quotes as fast as they are given, and buy nothing; every place that is held is left to lapse."""
    if not stand.offers:
        return
    offer, _ = stand.offers[0]
    async with stand.connected() as (host, target):
        with suppress(PasarError):
            stream = await stand.stream(host, target, CONTROL)
            for _ in range(100):
                await stream.send(
                    *(RFQ(token(), stand.network, offer.settlement, shape(stand), 2000) for _ in range(20))
                )
                stand.done["rfqs"] += 20
                with trio.move_on_after(0.01):
                    await stream.receive()


async def awards(stand: Stand) -> None:
    """Take a quote that was given, take it again, take it with another body, and pay for none."""
    if not stand.offers:
        return
    offer, _ = stand.offers[0]
    async with stand.connected() as (host, target):
        with suppress(PasarError):
            line = await stand.stream(host, target, CONTROL)
            await stand.greeter().hear(line)
            await line.send(RFQ(token(), stand.network, offer.settlement, shape(stand), 2000))
            said = await line.receive(timeout=2)
            if not isinstance(said, Signed):
                return
            quote = open_signed(said, Quote)[0]
            award = wire.Award(
                token(32),
                1,
                quote.settlement,
                said,
                quote.price,
                quote.finish_by_ms,
                quote.late_rate,
                60_000,
                0,
                spec(stand),
            )
            for one in (award, award, replace(award, price=1), replace(award, job_id=token(32)), award):
                with suppress(PasarError):
                    stream = await stand.stream(host, target, JOB)
                    await stream.send(one, wire.Tickets(one.job_id, 1, token(32), stand.junk(500)))
                    stand.done["awards"] += 1
                    for _ in range(20):
                        await stream.send(wire.Resume(one.job_id, 1, 0, ()))
                    with trio.move_on_after(0.1):
                        await stream.receive()


async def bids(stand: Stand) -> None:
    """Bids that cost nothing here: taken back, left alone, said twice, never read to the end."""
    if not stand.offers:
        return
    async with stand.connected() as (host, target):
        for number in range(48):
            with suppress(PasarError):
                stream = await stand.stream(host, target, BID)
                bid = Bid(token(), spec(stand, 4 if number % 3 else 1000), 0, 30_000, wait=bool(number % 2))
                await stream.send(bid)
                stand.done["bids"] += 1
                taken: Any = None
                with trio.move_on_after(0.05):
                    await stand.greeter().hear(stream)
                    taken = await stream.receive()
                if isinstance(taken, BidTaken) and number % 4 == 0:
                    await stream.send(*[CancelBid(taken.job_id)] * 10)
                if number % 5 == 0:
                    await stream.reset()


async def torn_messages(stand: Stand) -> None:
    """Messages of a good beginning and a changed middle."""
    if not stand.offers:
        return
    offer, envelope = stand.offers[0]
    good: list[Any] = [
        Bid(token(), spec(stand), 0, 30_000),
        RFQ(token(), stand.network, offer.settlement, shape(stand), 2000),
        wire.Award(token(32), 1, offer.settlement, envelope, 1, 1, 1, 1, 0, spec(stand)),
        wire.Resume(token(32), 1, 0, ()),
    ]
    async with stand.connected() as (host, target):
        for _ in range(50):
            message = bytearray(encode(stand.chance.choice(good)))
            for _ in range(stand.chance.randint(1, 3)):
                message[stand.chance.randrange(len(message))] = stand.chance.getrandbits(8)
            with suppress(PasarError):
                stream = await stand.raw_stream(host, target, stand.chance.choice((BID, CONTROL, JOB)))
                await stream.send(frame(bytes(message)))
                stand.done["torn messages"] += 1
                with trio.move_on_after(0.02):
                    await stream.receive()
            if target.peer not in host.connected():
                return


ACTS: list[Act] = [rfq_flood, awards, bids, torn_messages]
