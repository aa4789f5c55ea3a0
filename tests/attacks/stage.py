"""The stage of every attack: two or three libp2p hosts in this process, hardened or with some cures left out.

    python tests/attacks/NAME.py on|off

With the cures in, an attack ends with ``alive`` on stdout and exit code 0. Without them it kills this process with the
library's own exception, or ends it through ``dead(...)`` where what died is a node's use and not its process.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr

from p2p.hardening import install, install_guard

ECHO = TProtocol("/echo/1")
PATIENCE = 60.0  # seconds until an attack that goes nowhere is called stuck
Attack = Callable[[bool], Awaitable[None]]
faults: list[str] = []


def perform(attack: Attack, *cures: str, clock: Any = None) -> NoReturn:
    """Run one attack with the cures it is about, or without; the guard is the cure ``guard``."""
    hardened = sys.argv[1] == "on"
    install(without=() if hardened else [cure for cure in cures if cure != "guard"])

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            await attack(hardened or "guard" not in cures)
        print("alive", flush=True)
        os._exit(0)  # what the attack left open need not be closed politely

    trio.run(main, clock=clock)
    raise SystemExit("the stage was left")


def dead(why: str) -> NoReturn:
    """End the process: the node still runs, but is of no use any more."""
    print(f"dead: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def make_host(guarded: bool = True, config: ConnectionConfig | None = None, seed: bytes | None = None) -> Any:
    key = create_new_key_pair(seed)
    host = new_host(
        key_pair=key,
        sec_opt={TProtocol(NOISE): Noise(key, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={TProtocol(yamux.PROTOCOL_ID): yamux.Yamux},
        connection_config=config,
    )
    host.set_stream_handler(ECHO, echo)
    if guarded:
        install_guard(host, lambda _peer, _protocol, error: faults.append(type(error).__name__))
    return host


async def echo(stream: Any) -> None:
    while data := await stream.read(65536):
        await stream.write(data)


@asynccontextmanager
async def running(*hosts: Any, port: int = 0) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for host in hosts:

            async def run(host: Any = host, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
                async with host.run(listen_addrs=[Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]):
                    task_status.started()
                    await trio.sleep_forever()

            await nursery.start(run)
        yield
        nursery.cancel_scope.cancel()


def contact(host: Any) -> PeerInfo:
    return PeerInfo(host.get_id(), host.get_transport_addrs())


async def connect(host: Any, to: Any) -> Any:
    """The SwarmConn from ``host`` to ``to``."""
    await host.connect(contact(to))
    return host.get_network().get_connections(to.get_id())[0]


async def serves(host: Any, to: Any) -> None:
    """Returns when ``to`` answers an honest question of ``host``; raises when it does not."""
    await connect(host, to)
    stream = await host.new_stream(to.get_id(), [ECHO])
    await answered(stream)
    await stream.reset()


async def answered(stream: Any) -> None:
    """Ask on an echo stream, and hear the answer out."""
    await stream.write(b"still there?")
    answer = b""
    while len(answer) < 12:
        answer += await stream.read(64)
    assert answer == b"still there?"


async def send_raw_frame(conn: Any, stream_id: int, body: bytes, flags: int = 0) -> None:
    """One data frame as a peer may make it that keeps no rule."""
    header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, flags, stream_id, len(body))
    await conn.muxed_conn._write_frame(header + body)


async def until(condition: Callable[[], bool]) -> None:
    """Look again at every turn of the loop; ``PATIENCE`` bounds it."""
    while not condition():  # noqa: ASYNC110  what it waits for is inside the library, which tells nobody
        await trio.sleep(0.005)
