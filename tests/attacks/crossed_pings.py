"""A ping that arrives while nothing can be sent: the connection must go on reading what comes after it.

Both ends of a loaded connection ping each other. Ends that do not read before their answer is out wait for each other.
"""

import struct
from typing import Any

import trio
from libp2p.stream_muxer.yamux import yamux
from stage import dead, perform
from trio.testing import memory_stream_pair, wait_all_tasks_blocked


class Jam:
    """A secured connection that brings bytes and takes none."""

    is_initiator = False

    def __init__(self, stream: Any) -> None:
        self.stream, self.closed = stream, trio.Event()

    async def read(self, n: int) -> bytes:
        data: bytes = await self.stream.receive_some(n)
        return data

    async def write(self, _data: bytes) -> None:
        await self.closed.wait()

    async def close(self) -> None:
        self.closed.set()
        await self.stream.aclose()


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    return struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, len(body)) + body


async def attack(_guarded: bool) -> None:
    near, far = memory_stream_pair()
    conn = yamux.Yamux(Jam(near), "peer")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        await conn.event_started.wait()
        await far.send_all(frame(yamux.TYPE_PING, yamux.FLAG_SYN, 0))
        await far.send_all(frame(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, 1))
        await far.send_all(frame(yamux.TYPE_DATA, 0, 1, b"after the ping"))
        await wait_all_tasks_blocked()
        if bytes(conn.stream_buffers.get(1, b"")) != b"after the ping":
            dead("a reply that cannot leave stops the reading")
        nursery.cancel_scope.cancel()


perform(attack, "free-reader")
