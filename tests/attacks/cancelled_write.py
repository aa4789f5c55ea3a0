"""A write that is cancelled when half of its frame is in the socket; then any other use of the connection."""

from typing import Any

import trio
import trio.testing
from libp2p.network.config import ConnectionConfig
from stage import ECHO, connect, dead, make_host, perform, running, serves


class Halfway:
    """A socket that stops in the middle of the first large write until it is told to go on."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.stopped, self.go_on = inner, trio.Event(), trio.Event()
        self.socket = self  # nothing leaves at once: each write is one that may have to wait

    def fileno(self) -> int:
        return -1

    async def send_all(self, data: bytes) -> None:
        half = len(data) // 2 if len(data) > 10_000 and not self.stopped.is_set() else 0
        if half:
            await self.inner.send_all(data[:half])
            self.stopped.set()
            await self.go_on.wait()
        await self.inner.send_all(data[half:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


async def attack(_guarded: bool) -> None:
    victim, far = make_host(config=ConnectionConfig(outbound_stream_protocol_negotiation_timeout=1)), make_host()
    async with running(victim, far):
        conn = await connect(victim, far)
        stream = await victim.new_stream(far.get_id(), [ECHO])
        tcp = conn.muxed_conn.secured_conn.conn.read_writer.read_write_closer.stream
        tcp.stream = socket = Halfway(tcp.stream)
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_halfway, scope, socket)
                await stream.write(bytes(50_000))
        try:
            await serves(victim, far)
        except Exception as exc:
            dead(f"corrupt: {exc!r}")
        if victim.get_network().get_connections(far.get_id()) != [conn]:
            dead("corrupt: the connection was lost")


async def cancel_halfway(scope: trio.CancelScope, socket: Halfway) -> None:
    await socket.stopped.wait()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    socket.go_on.set()


perform(attack, "whole-frames", "straight-frames")
