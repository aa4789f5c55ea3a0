"""Yamux over noise over TCP, sending: a frame that the socket takes at once goes there in one step.

Nothing can be cancelled in the middle of a step, so that there is nothing to shield, to time or to wait for; and most
frames of a connection that is not jammed are of this kind. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import structlog
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoisePacketReadWriter, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p.hardening.pinned import Ground, Patch
from p2p.hardening.sending import FRAME_STALL, abandon, stall_of
from p2p.quicklock import QuickLock

log = structlog.get_logger(__name__)

_LAYERS = (
    (SecureSession, "conn"),
    (NoiseTransportReadWriter, "read_writer"),
    (NoisePacketReadWriter, "read_write_closer"),
    (RawConnection, "stream"),
    (TrioTCPStream, "stream"),
)
UNYIELDED = 16 << 10  # bytes sent, and 1 KiB for each frame, before anybody else has a turn


@dataclass(slots=True)
class _Line:
    """The layers under one connection, when they are the ones that this module knows."""

    noise: Any
    raw: Any
    tcp: Any
    unyielded: int = 0

    @classmethod
    def under(cls, conn: Any) -> _Line | None:
        layer, found = conn.secured_conn, list[Any]()
        for kind, below in _LAYERS:
            if type(layer) is not kind:
                return None
            found.append(layer)
            layer = getattr(layer, below)
        _session, noise, _packets, raw, tcp = found
        quick = isinstance(tcp.write_lock, QuickLock) and isinstance(conn._write_lock, QuickLock)
        return cls(noise, raw, tcp) if quick else None

    def free(self, conn: Any) -> bool:
        return bool(conn._write_lock.free and self.tcp.write_lock.free)

    def send(self, frame: bytes) -> memoryview:
        """Hand the socket the frame, as one noise message; what it does not take now."""
        packet = self.noise.read_writer.encode_msg(self.noise.encrypt(frame))
        try:
            sent = os.write(self.tcp.stream.socket.fileno(), packet)
        except OSError:  # full, closed or broken: the way that can wait finds out which
            sent = 0
        return memoryview(packet)[sent:]


async def _write_frame(self: Any, data: bytes) -> None:
    if "_pasar_line" not in self.__dict__:
        self._pasar_line = _Line.under(self)
    line: _Line | None = self._pasar_line
    if line is None or not line.free(self) or len(data) > MAX_PLAINTEXT_LENGTH:
        await _careful_write(self, data)
        return
    if len(data) > yamux.HEADER_SIZE:  # a control frame must not get lost; see sending.py
        await trio.lowlevel.checkpoint_if_cancelled()
    rest = line.send(data)
    if rest:
        self._write_lock.seize()  # free until here, for nobody else had a turn
        if data[3] & yamux.FLAG_ACK and self._nursery is not None:
            self._nursery.start_soon(_write_reply_rest, self, line, rest)
        else:
            await _write_rest(self, line, rest, stall_of(data))
    line.unyielded += len(data) + 1024
    if line.unyielded > UNYIELDED:
        line.unyielded = 0
        await trio.lowlevel.cancel_shielded_checkpoint()


async def _write_rest(conn: Any, line: _Line, rest: memoryview, stall: float) -> None:
    """Write what the socket did not take, whoever is cancelled, and give the lock back."""
    try:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + stall) as scope:
            await line.raw.write(rest)
    finally:
        conn._write_lock.release()
    if scope.cancelled_caught:
        await abandon(conn)
        raise MuxedStreamError("the peer takes no bytes; the connection is closed")


async def _write_reply_rest(conn: Any, line: _Line, rest: memoryview) -> None:
    """The same for an acknowledgement, which only the reading task sends: it goes on reading meanwhile."""
    try:
        await _write_rest(conn, line, rest, FRAME_STALL)
    except Exception as exc:  # the connection is breaking, in one of many ways; its reading task clears up
        log.debug("reply_not_sent", error=type(exc).__name__)


_careful_write = Yamux._write_frame


def _straight_frames() -> None:
    global _careful_write
    _careful_write = Yamux._write_frame
    Yamux._write_frame = _write_frame


PATCHES = (
    Patch(
        "straight-frames",
        "a shield, a deadline and nine calls around a write that takes no time",
        (
            Ground(Yamux, "_write_frame", "16ff969cdd0d2b1b"),
            Ground(SecureSession, "write", "0298b065574caeda"),
            Ground(RawConnection, "write", "1a486aa01639d127"),
            Ground(NoiseTransportReadWriter, "write_msg", "00818920318f86aa"),
            Ground(NoisePacketReadWriter, "write_msg", "5e7a1010c7b7d880"),
        ),
        _straight_frames,
        speed=True,
    ),
)
