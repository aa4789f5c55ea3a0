"""A hundred questions and answers on one open stream, and how often the asker's socket is read for them."""

from __future__ import annotations

from typing import Any

from stage import ECHO, answered, connect, dead, make_host, perform, running


class Counted:
    """A socket that counts its reads."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.reads = inner, 0

    async def receive_some(self, most: int | None = None) -> bytes:
        self.reads += 1
        data: bytes = await self.inner.receive_some(most)
        return data

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
        if socket.reads > 110:
            dead(f"reads its socket {socket.reads} times for 100 answers")


perform(attack, "whole-reads")
