"""Carries TCP from loopback of one network namespace to loopback of another, through a Unix socket that both can open.

    python tests/support/across.py out PORT PATH     listens on PATH, dials 127.0.0.1:PORT
    python tests/support/across.py in PORT PATH      listens on 127.0.0.1:PORT, dials PATH

What a development chain needs to be asked from another namespace: it answers loopback only.
"""

from __future__ import annotations

import sys

import trio


async def carry(near: trio.SocketStream, far: trio.SocketStream) -> None:
    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()

    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(pump, near, far)
        nursery.start_soon(pump, far, near)


async def main(way: str, port: int, path: str) -> None:
    if way == "out":
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(path)
        sock.listen(64)
        listeners = [trio.SocketListener(sock)]

        async def serve(near: trio.SocketStream) -> None:
            await carry(near, await trio.open_tcp_stream("127.0.0.1", port))
    else:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")

        async def serve(near: trio.SocketStream) -> None:
            await carry(near, await trio.open_unix_socket(path))

    print("READY {}", flush=True)
    await trio.serve_listeners(serve, listeners)


trio.run(main, sys.argv[1], int(sys.argv[2]), sys.argv[3])
