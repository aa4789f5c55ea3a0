"""Knock: whether a peer answers at an address, asked by a stranger's handshake that leaves nothing behind.

TCP and noise under a key made for the occasion, no muxer: it is no second connection with a peer that is connected
already, and nobody who only forwards a port can pass for the peer. Knows no protocol.
"""

from __future__ import annotations

import secrets

import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.security.security_multistream import SecurityMultistream

from p2p.errors import Unavailable
from p2p.netstream import far_end, library_id
from p2p.peer import PeerId

PATIENCE = 5.0


async def knock(peer: PeerId, ip: str, port: int) -> bool:
    """Whether ``peer``, and nobody else, answers at ``ip`` and ``port`` within five seconds."""
    with trio.move_on_after(PATIENCE):
        try:
            socket = await trio.open_tcp_stream(ip, port)
        except OSError:
            return False
        async with socket:
            try:
                with far_end("knock"):
                    raw = RawConnection(TrioTCPStream(socket), True)
                    await _security().secure_outbound(raw, library_id(peer))
            except Unavailable:
                return False
        return True
    return False


def _security() -> SecurityMultistream:
    key = create_new_key_pair(secrets.token_bytes(32))
    noise = Noise(key, noise_privkey=create_noise_key_pair().private_key)
    return SecurityMultistream({TProtocol(NOISE): noise})
