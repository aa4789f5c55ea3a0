"""Yamux, taking frames in and handing their bytes out: the library's rules, without its locks and its log lines.

Stock formats half a dozen log lines for each frame, shown or not, and takes a lock around every look at a stream. In
one event loop a lock guards nothing where nobody waits inside it. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import struct
from typing import Any

import structlog
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2p.hardening.pinned import Ground, Patch
from p2p.hardening.receiving import BufferBook, Overflow

log = structlog.get_logger(__name__)

HEADER = struct.Struct(yamux.YAMUX_HEADER_FORMAT)
BODY_STALL = 60.0  # seconds for the announced bytes of a frame to come
IN_A_ROW = 32  # frames taken in, or reads served, without letting anybody else run
_FIN, _RST, _SYN, _ACK = yamux.FLAG_FIN, yamux.FLAG_RST, yamux.FLAG_SYN, yamux.FLAG_ACK


class _Source:
    """What a connection brought and nobody has taken yet."""

    __slots__ = ("_at", "_conn", "_held")

    def __init__(self, conn: Any) -> None:
        self._conn, self._held, self._at = conn, b"", 0

    def has(self, size: int) -> bool:
        return len(self._held) - self._at >= size

    def cut(self, size: int) -> bytes:
        start = self._at
        self._at += size
        return self._held[start : self._at]

    async def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises EOFError, or what the connection raises, when it ends before them."""
        if not self.has(size):
            held = bytearray(self._held[self._at :])
            while len(held) < size:
                piece = await self._conn.read(None)
                if not piece:
                    raise EOFError
                held += piece
            self._held, self._at = bytes(held), 0
        return self.cut(size)


async def _handle_incoming(self: Any) -> None:
    """Take frames in until the connection ends or its peer breaks a rule. Then whoever waits on it is woken."""
    source, count = _Source(self.secured_conn), 0
    try:
        while not self.event_shutting_down.is_set():
            _, kind, flags, stream_id, length = HEADER.unpack(await source.take(yamux.HEADER_SIZE))
            if kind == yamux.TYPE_DATA:
                await _take_frame(self, flags, stream_id, await _body(self, source, length), 0)
            elif kind == yamux.TYPE_WINDOW_UPDATE:
                await _take_frame(self, flags, stream_id, b"", length)
            elif kind == yamux.TYPE_PING:
                await _take_ping(self, flags, length)
            elif kind == yamux.TYPE_GO_AWAY:
                break
            count += 1
            if count % IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
    except Exception as exc:  # the end of the connection has many types, in four libraries; so have broken rules
        log.debug("connection_ended", peer=str(self.peer_id), error=type(exc).__name__)
    await self._cleanup_on_error()


async def _body(conn: Any, source: _Source, length: int) -> bytes:
    if isinstance(conn.stream_buffers, BufferBook):
        conn.stream_buffers.admit(length)
    elif length > yamux.MAX_WINDOW_SIZE:
        raise Overflow(f"a frame of {length} bytes")
    if source.has(length):
        return source.cut(length)
    with trio.fail_after(BODY_STALL):
        return await source.take(length)


async def _take_frame(conn: Any, flags: int, stream_id: int, data: bytes, credit: int) -> None:
    """One frame of a stream: what it opens, brings, grants and ends. What concerns no stream of ours is dropped."""
    opened = flags & _SYN and await _open(conn, flags, stream_id)
    stream = conn.streams.get(stream_id)
    if stream is None or (flags & _SYN and not opened):
        return
    if data:
        conn.stream_buffers[stream_id].extend(data)
        stream.recv_window = max(0, stream.recv_window - len(data))
    if credit:
        stream.send_window += credit
    if flags & _FIN:
        stream.recv_closed = True
        stream.closed = stream.closed or stream.send_closed
    if flags & _RST:
        stream.closed = stream.reset_received = True
    if data or flags & (_FIN | _RST):
        conn.stream_events[stream_id].set()
    if stream.closed:
        conn._finalize_stream_locked(stream, fully_closed=True)
    if opened:
        await conn._write_frame(HEADER.pack(0, yamux.TYPE_WINDOW_UPDATE, _ACK, stream_id, 0))
        await conn.new_stream_send_channel.send(stream)


async def _open(conn: Any, flags: int, stream_id: int) -> bool:
    """Begin the stream that the peer opens. One that is there, or ours to open, is refused; a dead one is not begun."""
    if flags & _RST:
        return False
    if stream_id in conn.streams or stream_id % 2 == conn.next_stream_id % 2:
        await conn._write_frame(HEADER.pack(0, yamux.TYPE_WINDOW_UPDATE, _RST, stream_id, 0))
        return False
    conn.streams[stream_id] = YamuxStream(stream_id, conn, False)
    conn.stream_buffers[stream_id] = bytearray()
    conn.stream_events[stream_id] = trio.Event()
    return True


async def _take_ping(conn: Any, flags: int, nonce: int) -> None:
    if flags & _SYN:
        await conn._write_frame(HEADER.pack(0, yamux.TYPE_PING, _ACK, 0, nonce))
    elif flags & _ACK:
        took = trio.current_time() - conn._ping_sent_time
        conn._rtt = took if conn._rtt == 0.0 else (conn._rtt + took) / 2
        conn._ping_event.set()


async def _read(self: Any, n: int | None = -1) -> bytes:
    """What there is, up to ``n`` bytes, once there is anything. Cancelled, it has taken nothing."""
    conn, stream_id, most = self.conn, self.stream_id, -1 if n is None else n
    self._pasar_row = row = getattr(self, "_pasar_row", 0) + 1
    if row % IN_A_ROW:
        await trio.lowlevel.checkpoint_if_cancelled()
    else:
        await trio.lowlevel.checkpoint()
    while True:
        buffer = conn.stream_buffers.get(stream_id)
        if not buffer or (self.reset_received and not self.recv_closed):
            _raise_if_ended(self, buffer)
            if most == 0:
                return b""
            event = conn.stream_events[stream_id]
            await event.wait()
            if stream_id in conn.stream_events:
                conn.stream_events[stream_id] = trio.Event()
            continue
        with memoryview(buffer) as view:
            data = bytes(view if most < 0 else view[:most])
        del buffer[: len(data)]
        if self.closed and not buffer:
            conn._finalize_stream_locked(self, fully_closed=True)
        await self._auto_tune_and_send_window_update(bytes_read=len(data))
        return data


def _raise_if_ended(stream: Any, buffer: bytearray | None) -> None:
    """Raise what a reader with nothing to read has to hear, if its stream came to an end."""
    if stream.reset_received:
        raise MuxedStreamReset("the stream was reset")
    if stream.recv_closed or buffer is None or stream.conn.event_shutting_down.is_set():
        raise MuxedStreamEOF("the stream ended")
    if stream.closed:
        raise MuxedStreamReset("the stream is closed")


def _plain_frames() -> None:
    Yamux.handle_incoming = _handle_incoming


def _plain_reads() -> None:
    YamuxStream.read = _read


PATCHES = (
    Patch(
        "plain-frames",
        "half a dozen log lines formatted for every frame, and three locks taken",
        (
            Ground(Yamux, "handle_incoming", "ad15ff6943feac20"),
            Ground(Yamux, "_cleanup_on_error", "4fed61a999a34989"),
            Ground(Yamux, "_finalize_stream_locked", "95b60e92421133b4"),
            Ground(Yamux, "_measure_rtt_loop", "86222ce6e35836fd"),
            Ground(YamuxStream, "__init__", "ab24c0709285d573"),
        ),
        _plain_frames,
        speed=True,
    ),
    Patch(
        "plain-reads",
        "two looks under a lock, and their log lines, for every read of a stream",
        (
            Ground(YamuxStream, "read", "ca585f2199fd4e83"),
            Ground(Yamux, "read_stream", "d07c99299384666d"),
            Ground(Yamux, "_finalize_stream_locked", "95b60e92421133b4"),
            Ground(YamuxStream, "reset", "8e40f901761d3ac0"),
        ),
        _plain_reads,
        speed=True,
    ),
)
