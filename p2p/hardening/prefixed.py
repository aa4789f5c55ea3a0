"""Messages with a varint for their length: the length and what it announces are read together, when both are there.

Stock reads the length byte by byte, each byte through every layer. A look into the buffer of the stream tells how much
may be read without taking anything; the reading itself goes the usual way. Knows no message.
"""

from __future__ import annotations

from typing import Any

from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IncompleteReadError, MessageTooLarge
from libp2p.kad_dht import kad_dht, peer_routing, provider_store, value_store
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub import pubsub
from libp2p.stream_muxer.yamux.yamux import YamuxStream
from libp2p.utils import varint

from p2p.hardening.pinned import Ground, Patch

PREFIX_MOST = 10  # bytes of a varint of 64 bits
NEGOTIATION_MOST = 64 << 10  # bytes of one line of a negotiation, of which stock takes any number


def _waiting(reader: Any) -> bytes:
    """The first bytes that wait to be read, without taking them; none when nobody here can tell."""
    muxed: Any = reader.muxed_stream if type(reader) is NetStream else None
    if type(muxed) is not YamuxStream:
        return b""
    return bytes(muxed.conn.stream_buffers.get(muxed.stream_id, b"")[:PREFIX_MOST])


def _announced(first: bytes) -> tuple[int, int] | None:
    """How long the length itself is, and the length; None when it is not whole, or longer than it may be."""
    length = 0
    for place, byte in enumerate(first):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return place + 1, length
    return None


async def _read_limited(reader: Any, max_length: int) -> bytes:
    """A message of at most ``max_length`` bytes after its length. Raises as stock does."""
    taken = bytearray()
    while (announced := _announced(bytes(taken) + _waiting(reader))) is None:
        if len(taken) >= PREFIX_MOST:
            raise ParseError("a length of more than 64 bits")
        taken += await _some(reader, 1, 0, 1)
    head, length = announced
    if length > max_length:
        raise MessageTooLarge(f"a message of {length} bytes, limit {max_length}")
    while len(taken) < head + length:
        taken += await _some(reader, head + length - len(taken), len(taken), head + length)
    return bytes(taken[head:])


async def _some(reader: Any, most: int, received: int, expected: int) -> bytes:
    piece: bytes = await reader.read(most)
    if not piece:
        raise IncompleteReadError("the stream ended early", expected_bytes=expected, received_bytes=received)
    return piece


async def _read_line(reader: Any) -> bytes:
    """A line of a negotiation, without its end. Raises ParseError when it is none."""
    try:
        line = await _read_limited(reader, NEGOTIATION_MOST)
    except MessageTooLarge as exc:
        raise ParseError(str(exc)) from exc
    if line[-1:] != b"\n":
        raise ParseError("a line of a negotiation has no end")
    return line[:-1]


def _prefixed_reads() -> None:
    for module in (pubsub, kad_dht, peer_routing, provider_store, value_store):
        module.read_varint_prefixed_bytes_limited = _read_limited
    multiselect_communicator.read_delim = _read_line


PATCHES = (
    Patch(
        "prefixed-reads",
        "lengths read byte by byte, each byte through every layer",
        (
            Ground(varint, "read_varint_prefixed_bytes_limited", "75623a1c5c4e2c39"),
            Ground(varint, "read_varint_prefixed_bytes", "4126cf3dc9e12e2a"),
            Ground(varint, "read_delim", "48fe700247b18140"),
            Ground(MultiselectCommunicator, "read", "c99c62a961c70223"),
        ),
        _prefixed_reads,
        speed=True,
    ),
)
