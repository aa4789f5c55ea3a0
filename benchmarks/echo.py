"""The reference of the ``auction`` benchmark: a peer that answers each message with the same, and nothing else.

The same host, the same encryption, the same framing and codec as every stream of the market; one process, one stream.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

import trio

from market.quote import Release
from p2p.host import Host
from p2p.identity import Identity
from p2p.stream import MessageStream
from p2p.transport import Stream

ECHO = "/pasar/benchmark-echo/1"


async def serve() -> None:
    """Listen, say READY, answer."""
    host = Host(Identity.fresh(development=True), ("/ip4/127.0.0.1/tcp/0",))

    async def answer(raw: Stream) -> None:
        stream = MessageStream(raw)
        while (said := await stream.receive()) is not None:
            await stream.send(said)

    async with trio.open_nursery() as nursery:
        host.serve(ECHO, answer)
        await nursery.start(host.run)
        print("READY " + json.dumps({"addrs": host.addrs()}), flush=True)
        await trio.sleep_forever()


async def round_trip(stream: MessageStream) -> float:
    """Seconds for one message there and back."""
    started = perf_counter()
    await stream.send(Release(bytes(32)))
    await stream.receive()
    return perf_counter() - started


if __name__ == "__main__":
    try:
        trio.run(serve)
    except KeyboardInterrupt:
        sys.exit(0)
