"""Fewer turns of the event loop for the same bytes: free locks cost none, and one read of the socket brings a message.

A turn of the loop costs as much as all else that a small message needs, and stock takes one at each lock of each layer,
free or not: fourteen of them for a question and its answer on an open stream. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

from typing import Any

from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.msgio import BaseMsgReadWriter, FixedSizeLenMsgReadWriter
from libp2p.io.trio import TrioTCPStream
from libp2p.network.stream.net_stream import NetStream
from libp2p.security.noise.io import SIZE_NOISE_MESSAGE_LEN, BaseNoiseMsgReadWriter, NoiseTransportReadWriter
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2p.hardening.pinned import Ground, Patch
from p2p.quicklock import QuickLock

PIECE = 128 << 10  # bytes asked of the socket at once: two noise messages of the largest kind
_stock_read_msg = NoiseTransportReadWriter.read_msg


def _with_quick_locks(owner: Any, *names: str) -> None:
    init = owner.__init__

    def with_quick_locks(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for name in names:
            setattr(self, name, QuickLock())

    owner.__init__ = with_quick_locks


def _quick_locks() -> None:
    _with_quick_locks(TrioTCPStream, "read_lock", "write_lock")
    _with_quick_locks(Yamux, "streams_lock", "_write_lock")
    _with_quick_locks(YamuxStream, "window_lock", "close_lock")
    _with_quick_locks(NetStream, "_state_lock")


async def _read_msg(self: Any, prefix_encoded: bool = False) -> bytes:
    """The next noise message, out of what the socket had for us. Cancelled, it has lost nothing.

    Holds at most one piece and the beginning of one message. After the handshake nobody else reads this connection.
    """
    if prefix_encoded:
        return await _stock_read_msg(self, prefix_encoded)
    held: bytearray = self.__dict__.setdefault("_pasar_held", bytearray())
    while True:
        wanted = SIZE_NOISE_MESSAGE_LEN
        if len(held) >= wanted:
            wanted += int.from_bytes(held[:SIZE_NOISE_MESSAGE_LEN], "big")
            if len(held) >= wanted:
                with memoryview(held) as view:
                    message = bytes(view[SIZE_NOISE_MESSAGE_LEN:wanted])
                del held[:wanted]
                plain: bytes = self.decrypt(message)
                return plain
        piece = await self.read_writer.read_write_closer.read(PIECE)
        if not piece:
            raise IncompleteReadError("the connection ended", expected_bytes=wanted, received_bytes=len(held))
        held += piece


def _whole_reads() -> None:
    NoiseTransportReadWriter.read_msg = _read_msg


PATCHES = (
    Patch(
        "quick-locks",
        "a turn of the loop for every free lock of every layer",
        (
            Ground(TrioTCPStream, "__init__", "4222fa993846189e"),
            Ground(TrioTCPStream, "read", "c606ac89ec9d0eae"),
            Ground(Yamux, "__init__", "3b11a2a71ca444ca"),
            Ground(Yamux, "read_stream", "d07c99299384666d"),
            Ground(YamuxStream, "__init__", "ab24c0709285d573"),
            Ground(YamuxStream, "close", "158b994f8f0d7224"),
            Ground(NetStream, "__init__", "c1bafd9d5782acb4"),
            Ground(NetStream, "read", "cc3b280850abe4b3"),
            Ground(NetStream, "write", "b0662734215dfe68"),
        ),
        _quick_locks,
        speed=True,
    ),
    Patch(
        "whole-reads",
        "two reads of the socket for every noise message",
        (
            Ground(BaseNoiseMsgReadWriter, "__init__", "e6b51bace4fa3dda"),
            Ground(BaseNoiseMsgReadWriter, "read_msg", "b2fa218c135c82c0"),
            Ground(BaseMsgReadWriter, "read_msg", "7646fb54d00e03eb"),
            Ground(FixedSizeLenMsgReadWriter, "next_msg_len", "4f910f6a1f7df290"),
        ),
        _whole_reads,
        speed=True,
    ),
)
