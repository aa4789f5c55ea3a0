"""One end of the ``transfer`` benchmark that serves: ours, a stock py-libp2p host, or plain TLS.

    python -m benchmarks.transfer_node ours|stock|tls

A bare stream brings eight bytes of length and so many more, and is answered with one byte; that is all, on all three.
``ours`` serves the transfer of p2p/transfer.py beside it. ``stock`` is the library as released: no patch is in.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from benchmarks.certificate import server_context
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transfer import receive_bytes
from p2p.transport import Stream

BARE, BLOB = "/bench/bare/1", "/bench/blob/1"
READ, WRITE = 64 << 10, 1 << 20
MOST = 1 << 30
HEAD = 8


async def sink(receive: Callable[[int], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]) -> None:
    """Take in one bare transfer after another, until the other end leaves."""
    while True:
        held = b""
        while len(held) < HEAD:
            piece = await receive(READ)
            if not piece:
                return
            held += piece
        left = int.from_bytes(held[:HEAD], "big") - len(held) + HEAD
        while left > 0:
            left -= len(await receive(READ))
        await send(b"!")


async def pour(
    data: bytes, send: Callable[[bytes], Awaitable[None]], receive: Callable[[int], Awaitable[bytes]]
) -> None:
    """One bare transfer to a ``sink``; returns when it has all."""
    await send(len(data).to_bytes(HEAD, "big"))
    for start in range(0, len(data), WRITE):
        await send(data[start : start + WRITE])
    assert await receive(1) == b"!"


async def serve_ours() -> None:
    from p2p.host import Host
    from p2p.identity import Identity

    async def bare(stream: Stream) -> None:
        await sink(stream.receive, stream.send)

    async def blob(raw: Stream) -> None:
        stream = MessageStream(raw, JOB_FRAME)
        while True:
            await receive_bytes(stream, cap=MOST)

    host = Host(Identity.fresh(development=True), ("/ip4/127.0.0.1/tcp/0",))
    async with trio.open_nursery() as nursery:
        host.serve(BARE, bare)
        host.serve(BLOB, blob)
        await nursery.start(host.run)
        say_ready(host.addrs()[0])
        await trio.sleep_forever()


def stock_host() -> Any:
    """A host of py-libp2p as released, on noise and yamux like ours."""
    from libp2p import new_host
    from libp2p.crypto.secp256k1 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.custom_types import TProtocol
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
    from libp2p.security.noise.transport import Transport as Noise
    from libp2p.stream_muxer.yamux import yamux

    key = create_new_key_pair(secrets.token_bytes(32))
    noise = Noise(key, noise_privkey=create_noise_key_pair().private_key)
    return new_host(
        key_pair=key, sec_opt={TProtocol(NOISE): noise}, muxer_opt={TProtocol(yamux.PROTOCOL_ID): yamux.Yamux}
    )


async def serve_stock() -> None:
    from multiaddr import Multiaddr

    async def bare(stream: Any) -> None:
        await sink(stream.read, stream.write)

    host = stock_host()
    host.set_stream_handler(BARE, bare)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        say_ready(str(host.get_addrs()[0]))
        await trio.sleep_forever()


async def serve_tls() -> None:
    async def bare(stream: Any) -> None:
        await sink(stream.receive_some, stream.send_all)

    (listener,) = await trio.open_ssl_over_tcp_listeners(0, server_context(), host="127.0.0.1")
    say_ready(str(listener.transport_listener.socket.getsockname()[1]))
    await trio.serve_listeners(bare, [listener])


def say_ready(where: str) -> None:
    print("READY " + json.dumps({"addrs": [where]}), flush=True)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    os.environ.pop("PASAR_HOME", None)
    try:
        trio.run({"ours": serve_ours, "stock": serve_stock, "tls": serve_tls}[sys.argv[1]])
    except (KeyboardInterrupt, BaseExceptionGroup):
        sys.exit(0)
