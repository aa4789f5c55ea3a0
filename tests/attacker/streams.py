"""On every protocol: garbage, lying lengths, the wrong order, replays, never reading, never closing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio

from market.bidwire import AskModels
from market.bookwire import BookAsk, Span, SpanAsk, SumsAsk
from market.jobwire import Closure, Start
from market.loads import LoadAsk
from market.protocol import BID, BOOK, BOOK_1, CONTROL, JOB, LOAD, PROOF, STREAMS
from market.quote import Release
from p2p.codec import encode
from p2p.errors import PasarError
from p2p.framing import frame
from p2p.host import Host
from p2p.transport import PeerAddrs
from tests.attacker.stand import PIPELINE, Act, Stand, token

LIBRARY = ("/meshsub/1.1.0", "/pasar/kad/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0")
EVERYWHERE = (*STREAMS, *LIBRARY, "/no/such/protocol/1")


def lies(stand: Stand) -> list[bytes]:
    """Beginnings that are none, and lengths that lie."""
    return [
        stand.junk(),
        b"\xff\xff\xff\xff" + stand.junk(),
        b"\x00\x00\x00\x00",
        b"\x00\x0f\x00\x00" + b"half a frame",
        frame(b"\xc1"),
        frame(b"\x93" * 900),  # arrays in arrays
        frame(b"\xdd\xff\xff\xff\xff"),
        frame(encode(Start(token(32), 1))),
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + stand.junk(),
        b"\x05abcde",
        b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n",
    ]


async def garbage(stand: Stand) -> None:
    """Whatever is not a message, on every protocol, with a hello and without."""
    async with stand.connected() as (host, target):
        for protocol in EVERYWHERE:
            for lie in lies(stand):
                with suppress(PasarError):
                    stream = await stand.raw_stream(host, target, protocol, hello=bool(stand.chance.getrandbits(1)))
                    await stream.send(lie)
                    stand.done["lies"] += 1
                    with trio.move_on_after(0.02):
                        await stream.receive()
                    if stand.chance.getrandbits(1):
                        await stream.reset()
                if target.peer not in host.connected():
                    return  # shut out: the next round is another peer's


async def wrong_order(stand: Stand) -> None:
    """Good messages where they do not belong, and the same hello again and again."""
    said: list[Any] = [
        AskModels(PIPELINE),
        BookAsk(PIPELINE, None, 1),
        SumsAsk(PIPELINE, (Span(None, None),)),
        LoadAsk((PIPELINE,)),
        Start(token(32), 1),
        Closure(token(32), 1, "DONE"),
        Release(token(32)),
        stand.hello(),
    ]
    async with stand.connected() as (host, target):
        for protocol in (CONTROL, BID, JOB, BOOK, BOOK_1, LOAD, PROOF):
            for message in said:
                with suppress(PasarError):
                    stream = await stand.stream(host, target, protocol)
                    await stream.send(*[message] * 50)
                    stand.done["misplaced"] += 50
                    with trio.move_on_after(0.02):
                        await stream.receive()
                if target.peer not in host.connected():
                    return


async def never_reading(stand: Stand) -> None:
    """Ask and ask, and take no answer."""
    async with stand.connected() as (host, target):
        questions = {
            BOOK_1: BookAsk(PIPELINE, None, 32),
            BOOK: SpanAsk(PIPELINE, Span(None, None)),
            LOAD: LoadAsk((PIPELINE,)),
            BID: AskModels(PIPELINE),
        }

        async def ask(protocol: str, question: Any) -> None:
            with suppress(PasarError):
                stream = await stand.stream(host, target, protocol)
                while True:
                    await stream.send(*[question] * 100)
                    stand.done["questions without a reader"] += 100

        async with trio.open_nursery() as nursery:
            for protocol, question in questions.items():
                for _ in range(4):
                    nursery.start_soon(ask, protocol, question)


async def never_closing(stand: Stand) -> None:
    """As many streams as there may be, each with a good beginning, and none ever closed."""
    async with stand.connected() as (host, target):
        with suppress(PasarError):
            for number in range(200):
                await _begin(stand, host, target, EVERYWHERE[number % len(EVERYWHERE)])
        await trio.sleep(5)


async def _begin(stand: Stand, host: Host, target: PeerAddrs, protocol: str) -> None:
    if protocol in STREAMS:
        await stand.stream(host, target, protocol)
    else:
        await host.open(target.peer, protocol)
    stand.done["streams left open"] += 1


async def drip(stand: Stand) -> None:
    """A frame whose bytes come one by one, for ever."""
    async with stand.connected() as (host, target):

        async def feed(protocol: str) -> None:
            with suppress(PasarError):
                stream = await stand.raw_stream(host, target, protocol)
                await stream.send(b"\x00\x03\x00\x00")
                while True:
                    await stream.send(b"x")
                    await trio.sleep(0.2)

        async with trio.open_nursery() as nursery:
            for protocol in STREAMS:
                for _ in range(4):
                    nursery.start_soon(feed, protocol)


ACTS: list[Act] = [garbage, wrong_order, never_reading, never_closing, drip]
