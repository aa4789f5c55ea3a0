"""Below the streams: raw TCP, the handshake, frames of the muxer."""

from __future__ import annotations

import struct
from contextlib import suppress

import trio
from libp2p.stream_muxer.yamux import yamux
from libp2p.utils import encode_delim
from multiaddr import Multiaddr

from p2p.transport import PeerAddrs
from tests.attacker.stand import Act, Stand, muxed

HELD = 40


def place(target: PeerAddrs) -> tuple[str, int]:
    addr = Multiaddr(target.addrs[0])
    return str(addr.value_for_protocol("ip4")), int(addr.value_for_protocol("tcp"))


async def sockets(stand: Stand, first: bytes) -> None:
    """Many connections that say ``first`` and then nothing, held until they are closed for us."""

    async def hold() -> None:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await trio.open_tcp_stream(*place(stand.target()))
            async with stream:
                if first:
                    await stream.send_all(first)
                while await stream.receive_some(4096):
                    stand.done["bytes heard before any handshake"] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(HELD):
            nursery.start_soon(hold)


async def slow_loris(stand: Stand) -> None:
    """Connections that never say a word."""
    await sockets(stand, b"")


async def half_handshake(stand: Stand) -> None:
    """The first line of the handshake, and then nothing."""
    await sockets(stand, encode_delim(b"/multistream/1.0.0"))


async def other_protocols(stand: Stand) -> None:
    """What belongs to other servers, and noise that is none."""
    noise = encode_delim(b"/multistream/1.0.0") + encode_delim(b"/noise")
    for said in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        stand.junk(),
        b"\xff" * 4096,
        noise + b"\xff\xff" + bytes(65_535),
        noise + b"\x00\x20" + stand.chance.randbytes(32),
    ):
        await sockets(stand, said)


async def come_and_go(stand: Stand) -> None:
    """Connections opened and dropped as fast as they can be."""
    for _ in range(200):
        with suppress(OSError):
            await (await trio.open_tcp_stream(*place(stand.target()))).aclose()
            stand.done["dials"] += 1


async def keys_without_end(stand: Stand) -> None:
    """A whole handshake for a key that is then thrown away."""
    for _ in range(20):
        async with stand.connected():
            stand.done["handshakes"] += 1


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream, length) + body


async def frames(stand: Stand, *each: bytes, times: int = 1) -> None:
    async with stand.connected() as (host, target):
        conn = muxed(host, target)
        for _ in range(times):
            for one in each:
                await conn.secured_conn.write(one)
                stand.done["frames"] += 1
        await trio.sleep(0.2)


async def lying_frames(stand: Stand) -> None:
    """Lengths that lie, kinds that are none, streams that nobody opened."""
    for one in (
        frame(yamux.TYPE_DATA, yamux.FLAG_SYN, 1, 2**32 - 1),
        frame(yamux.TYPE_DATA, yamux.FLAG_SYN, 1, 2**20, b"x"),
        frame(9, 0, 1, 0),
        frame(yamux.TYPE_DATA, 0, 99, 4, b"body"),
        frame(yamux.TYPE_WINDOW_UPDATE, 0, 99, 2**31),
        frame(yamux.TYPE_DATA, yamux.FLAG_SYN, 0, 4, b"body"),
        stand.junk(),
    ):
        await frames(stand, one)


async def stream_flood(stand: Stand) -> None:
    """Streams opened without end and without a word."""
    await frames(stand, *(frame(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, 2 * n + 1, 0) for n in range(2000)))


async def ping_flood(stand: Stand) -> None:
    """Pings of the muxer as fast as they are taken."""
    await frames(stand, frame(yamux.TYPE_PING, yamux.FLAG_SYN, 0, 7), times=20_000)


async def window_flood(stand: Stand) -> None:
    """Credit that nobody asked for."""
    opened = frame(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, 1, 0)
    await frames(stand, opened, *[frame(yamux.TYPE_WINDOW_UPDATE, 0, 1, 2**31)] * 5000)


async def crumbs(stand: Stand) -> None:
    """One byte a frame, on a stream that is being negotiated."""
    opened = frame(yamux.TYPE_DATA, yamux.FLAG_SYN, 1, 1, b"\x13")
    await frames(stand, opened, *[frame(yamux.TYPE_DATA, 0, 1, 1, b"/")] * 20_000)


async def past_credit(stand: Stand) -> None:
    """More bytes than there was credit for."""
    opened = frame(yamux.TYPE_DATA, yamux.FLAG_SYN, 1, 65_000, bytes(65_000))
    await frames(stand, opened, *[frame(yamux.TYPE_DATA, 0, 1, 65_000, bytes(65_000))] * 100)


ACTS: list[Act] = [
    slow_loris,
    half_handshake,
    other_protocols,
    come_and_go,
    keys_without_end,
    lying_frames,
    stream_flood,
    ping_flood,
    window_flood,
    crumbs,
    past_credit,
]
