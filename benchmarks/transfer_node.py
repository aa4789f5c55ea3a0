"""One end of the ``transfer`` benchmark: of ours, of py-libp2p as released, or of plain TLS.

    python -m benchmarks.transfer_node ours|stock|tls              serves
    python -m benchmarks.transfer_node bare|blob|stock|tls ADDR    sends as many MiB as each line on stdin says

A bare transfer brings eight bytes of length and so many more, and is answered with one byte; the same on all three.
``ours`` serves the transfer of p2p/transfer.py beside it, and ``blob`` sends it. ``stock`` has no patch in, on either
side. The sender says for each line how many seconds it took until the other end had all.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from time import perf_counter
from typing import Any

import structlog
import trio

from benchmarks.certificate import client_context, server_context
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transfer import receive_bytes, send_blob
from p2p.transport import Stream

BARE, BLOB = "/bench/bare/1", "/bench/blob/1"
READ, WRITE = 64 << 10, 1 << 20
MIB = 1 << 20
MOST = 1 << 30
HEAD = 8
ANYWHERE = "/ip4/127.0.0.1/tcp/0"
Receive = Callable[[int], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]
Pour = Callable[[bytes, bytes], Awaitable[Any]]  # the data and its digest


async def sink(receive: Receive, send: Send) -> None:
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


async def pour(data: bytes, receive: Receive, send: Send) -> None:
    """One bare transfer to a ``sink``; returns when it has all."""
    await send(len(data).to_bytes(HEAD, "big"))
    for start in range(0, len(data), WRITE):
        await send(data[start : start + WRITE])
    assert await receive(1) == b"!"


@asynccontextmanager
async def our_host() -> AsyncGenerator[Any]:
    from p2p.host import Host
    from p2p.identity import Identity

    host = Host(Identity.fresh(development=True), (ANYWHERE,))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        nursery.cancel_scope.cancel()


async def serve_ours() -> None:
    async def bare(stream: Stream) -> None:
        await sink(stream.receive, stream.send)

    async def blob(raw: Stream) -> None:
        stream = MessageStream(raw, JOB_FRAME)
        while True:
            await receive_bytes(stream, cap=MOST)

    async with our_host() as host:
        host.serve(BARE, bare)
        host.serve(BLOB, blob)
        say("READY " + json.dumps({"addrs": host.addrs()}))
        await trio.sleep_forever()


async def send_ours(kind: str, addr: str) -> None:
    from p2p.addresses import parse_target

    target = parse_target(addr)
    async with our_host() as host:
        await host.connect(target)
        stream = await host.open(target.peer, BARE if kind == "bare" else BLOB)
        messages = MessageStream(stream, JOB_FRAME)
        if kind == "bare":
            await answer(lambda data, _digest: pour(data, stream.receive, stream.send))
        else:
            await answer(lambda data, digest: send_blob(messages, secrets.token_bytes(16), data, digest=digest))


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
    muxers = {TProtocol(yamux.PROTOCOL_ID): yamux.Yamux}
    return new_host(key_pair=key, sec_opt={TProtocol(NOISE): noise}, muxer_opt=muxers)


async def serve_stock() -> None:
    from multiaddr import Multiaddr

    async def bare(stream: Any) -> None:
        await sink(stream.read, stream.write)

    host = stock_host()
    host.set_stream_handler(BARE, bare)
    async with host.run(listen_addrs=[Multiaddr(ANYWHERE)]):
        say("READY " + json.dumps({"addrs": [str(host.get_addrs()[0])]}))
        await trio.sleep_forever()


async def send_stock(addr: str) -> None:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    host, info = stock_host(), info_from_p2p_addr(Multiaddr(addr))
    async with host.run(listen_addrs=[Multiaddr(ANYWHERE)]):
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [BARE])
        await answer(lambda data, _digest: pour(data, stream.read, stream.write))


async def serve_tls() -> None:
    async def bare(stream: Any) -> None:
        await sink(stream.receive_some, stream.send_all)

    (listener,) = await trio.open_ssl_over_tcp_listeners(0, server_context(), host="127.0.0.1")
    tcp: Any = listener.transport_listener
    say("READY " + json.dumps({"addrs": [str(tcp.socket.getsockname()[1])]}))
    await trio.serve_listeners(bare, [listener])


async def send_tls(port: str) -> None:
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", int(port), ssl_context=client_context())
    await answer(lambda data, _digest: pour(data, stream.receive_some, stream.send_all))


async def answer(pour_one: Pour) -> None:
    """Send what each line asks for, until nobody asks any more."""
    say("READY {}")
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        data = os.urandom(int(line) * MIB)
        digest = sha256(data).digest()
        started = perf_counter()
        await pour_one(data, digest)
        say(json.dumps(perf_counter() - started))
    os._exit(0)  # whatever is still open belongs to this one run


def say(text: str) -> None:
    print(text, flush=True)


def main(kind: str, addr: str = "") -> None:
    if not addr:
        trio.run({"ours": serve_ours, "stock": serve_stock, "tls": serve_tls}[kind])
    elif kind in ("bare", "blob"):
        trio.run(send_ours, kind, addr)
    else:
        trio.run({"stock": send_stock, "tls": send_tls}[kind], addr)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.disable(logging.CRITICAL)
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(0)
