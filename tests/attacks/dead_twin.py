"""A peer whose wire to us died in silence, as behind a NAT that forgot, and which has dialled us again."""

from typing import Any

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from stage import ECHO, dead, make_host, perform, running, until


class Wire:
    """Carries bytes both ways between a port of its own and another, until it is cut: then nobody hears of anything."""

    def __init__(self, to: int) -> None:
        self.to, self.cut = to, False
        self.port = 0

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await trio.serve_listeners(self._carry, [listener], task_status=task_status)

    async def _carry(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self.to)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, near, far)
            nursery.start_soon(self._pump, far, near)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            if self.cut:
                await trio.sleep_forever()
            await sink.send_all(data)


def port_of(host: Any) -> int:
    return int(str(host.get_transport_addrs()[0]).rsplit("/", 1)[1])


async def attack(_guarded: bool) -> None:
    node, far = make_host(), make_host()
    async with running(node, far), trio.open_nursery() as nursery:
        wire = Wire(port_of(node))
        await nursery.start(wire.run)
        swarm = far.get_network()
        await swarm.dial_addr(Multiaddr(f"/ip4/127.0.0.1/tcp/{wire.port}"), node.get_id())
        await until(lambda: bool(node.get_network().get_connections(far.get_id())))
        await answered(node, far.get_id())  # a stream that stays open on the wire that is to die
        wire.cut = True
        await swarm.dial_addr(Multiaddr(f"/ip4/127.0.0.1/tcp/{port_of(node)}"), node.get_id())
        await until(lambda: len(node.get_network().get_connections(far.get_id())) == 2)
        for number in range(3):
            with trio.move_on_after(3) as scope:
                await answered(node, far.get_id())
            if scope.cancelled_caught:
                dead(f"stream {number} went to the connection that is dead")
        nursery.cancel_scope.cancel()


async def answered(host: Any, peer: ID) -> None:
    stream = await host.new_stream(peer, [ECHO])
    await stream.write(b"x")
    assert await stream.read(1) == b"x"


perform(attack, "newest-connection")
