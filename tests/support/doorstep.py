"""At the door of a node, from inside a network namespace: one that serves, one that only knocks, one that is honest.

doorstep.py serve ADDRESS                   a host, until its stdin ends; READY {"addr": ...} on stdout
doorstep.py knock ADDRESS PORT COUNT FROM   so many connections that say nothing; what became of them, as JSON
doorstep.py visit ADDR FROM                 an honest host that connects; "in" on stdout, or "out"
"""

from __future__ import annotations

import json
import secrets
import sys
from functools import partial

import trio

from p2p.addresses import parse_target
from p2p.errors import Unavailable
from p2p.host import HANDSHAKE_TIMEOUT, Host
from p2p.identity import Identity

AT_ONCE_S = 2.0  # whoever is turned away is turned away by then


async def serve(address: str) -> None:
    host = Host(Identity(secrets.token_bytes(32)), (f"/ip4/{address}/tcp/0",))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        print("READY", json.dumps({"addr": host.addrs()[0]}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def knock(address: str, port: str, count: str, source: str) -> None:
    """Turned away: closed at once. Dropped: closed when the time for a handshake was over."""
    began = trio.current_time()
    found = {"turned away": 0, "dropped": 0, "open": 0}

    async def wait() -> None:
        try:
            stream = await trio.open_tcp_stream(address, int(port), local_address=source)
        except OSError:
            found["turned away"] += 1
            return
        with trio.move_on_after(3 * HANDSHAKE_TIMEOUT) as scope:
            try:
                while await stream.receive_some(4096):
                    pass
            except trio.BrokenResourceError:
                pass
        late = trio.current_time() - began > AT_ONCE_S
        found["open" if scope.cancelled_caught else "dropped" if late else "turned away"] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(int(count)):
            nursery.start_soon(wait)
    print("READY", json.dumps(found), flush=True)


async def visit(addr: str, source: str) -> None:
    trio.open_tcp_stream = partial(trio.open_tcp_stream, local_address=source)
    host = Host(Identity(secrets.token_bytes(32)), ())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        try:
            await host.connect(parse_target(addr))
            said = "in"
        except Unavailable:
            said = "out"
        print("READY", json.dumps(said), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run({"serve": serve, "knock": knock, "visit": visit}[sys.argv[1]], *sys.argv[2:])
