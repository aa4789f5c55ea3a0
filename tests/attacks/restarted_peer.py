"""A peer that was down when it was dialled, and is up again."""

import socket
import sys

from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from stage import dead, make_host, perform, running

from p2p.hardening import evict_dial_cache


async def attack(_guarded: bool) -> None:
    node, far = make_host(), make_host()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    there = PeerInfo(far.get_id(), [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")])
    async with running(node):
        try:
            await node.connect(there)
        except Exception:
            pass
        else:
            dead("somebody answered for a peer that is down")
        async with running(far, port=port):
            if sys.argv[1] == "on":
                evict_dial_cache(node, far.get_id())
            try:
                await node.connect(there)
            except Exception as exc:
                dead(f"cannot be dialled: {exc}")


perform(attack, "dial-memory")
