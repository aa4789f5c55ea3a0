"""A hundred questions and answers on one open stream, and how often the asker waits for its socket to send them."""

from __future__ import annotations

from typing import Any

from stage import ECHO, answered, connect, dead, make_host, perform, running


class Counted:
    """A socket that counts the writes for which a task waits."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.waits = inner, 0

    async def send_all(self, data: bytes) -> None:
        self.waits += 1
        await self.inner.send_all(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


async def attack(_guarded: bool) -> None:
    asker, far = make_host(), make_host()
    async with running(asker, far):
        conn = await connect(asker, far)
        stream = await asker.new_stream(far.get_id(), [ECHO])
        tcp = conn.muxed_conn.secured_conn.conn.read_writer.read_write_closer.stream
        tcp.stream = socket = Counted(tcp.stream)
        for _ in range(100):
            await answered(stream)
        if socket.waits:
            dead(f"waits {socket.waits} times for a socket that has room")


perform(attack, "straight-frames")
