"""A read that is cancelled between taking the bytes and handing them over; then the next read."""

from typing import Any

import trio
from stage import ECHO, connect, dead, make_host, perform, running, until


async def attack(_guarded: bool) -> None:
    node, far = make_host(), make_host()
    async with running(node, far):
        conn = (await connect(node, far)).muxed_conn
        stream = await node.new_stream(far.get_id(), [ECHO])
        await stream.write(b"first")
        await until(lambda: bytes(conn.stream_buffers[stream.muxed_stream.stream_id]) == b"first")
        got = b""
        async with trio.open_nursery() as nursery:
            slow_writer = await nursery.start(hold, conn._write_lock)
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when_taken, scope, conn.stream_buffers[stream.muxed_stream.stream_id])
                got = await stream.read(64)
            slow_writer.cancel()
        await stream.write(b"second")
        while not got.endswith(b"second"):
            got += await stream.read(64)
        if got != b"firstsecond":
            dead(f"lost bytes: got only {got!r}")


async def hold(lock: trio.Lock, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    with trio.CancelScope() as scope:
        async with lock:
            task_status.started(scope)
            await trio.sleep_forever()


async def cancel_when_taken(scope: trio.CancelScope, buffer: bytearray) -> None:
    await until(lambda: not buffer)
    scope.cancel()


perform(attack, "few-grants", "whole-frames")
