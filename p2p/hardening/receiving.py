"""Yamux, receiving: what a peer may make us hold is bounded, and credit is granted in few frames.

Knows nothing of what the bytes mean. A peer that sends past its credit, or past what we hold for one connection, has
broken the protocol and loses the connection.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import structlog
import trio
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2p.hardening.pinned import Ground, Patch

log = structlog.get_logger(__name__)

CONNECTION_BUFFER = 64 << 20  # bytes received and not yet read, over all streams of a connection
FRAME_MOST = 1 << 20  # bytes of one frame; 64 KiB is what every known implementation sends
STREAMS_PER_PEER = (
    64 + 32
)  # streams that a peer has open towards us on one connection: 64 of ours, and the library's own
STREAMS_KEPT = 1024  # entries of a connection, half-closed ones included, ours as well
REFUSALS_MOST = 64  # streams past their number whose reset waits for its turn
_stock_init = Yamux.__init__
_stock_body = Yamux._read_data_body
_stock_accept = Yamux.accept_stream


class Overflow(trio.TooSlowError):
    """The peer sent more than it may. The one error on which the library's reading loop closes the connection."""


class _Buffer(bytearray):
    """What one stream received and nobody has read yet. While it is in a book, the book counts its bytes."""

    book: BufferBook | None
    stream_id: int

    def extend(self, data: Any) -> None:
        if self.book is not None:
            self.book.take(self.stream_id, len(data))
        super().extend(data)

    def clear(self) -> None:
        if self.book is not None:
            self.book.total -= len(self)
        super().clear()

    def __delitem__(self, key: Any) -> None:
        before = len(self)
        super().__delitem__(key)
        if self.book is not None:
            self.book.total -= before - len(self)


class BufferBook(dict[int, bytearray]):
    """The buffers of one connection by stream id. ``total`` is the sum of their lengths, and never added up."""

    def __init__(self, streams: dict[int, Any]) -> None:
        super().__init__()
        self.total = 0
        self._streams = streams

    def take(self, stream_id: int, size: int) -> None:
        """Count ``size`` bytes that arrive for a stream. Raises Overflow when its peer had no credit for them."""
        stream = self._streams.get(stream_id)
        if stream is not None and size > stream.recv_window:
            log.info("peer_cut_off", peer=str(stream.conn.peer_id), sent=size, credit=stream.recv_window)
            raise Overflow(f"stream {stream_id}: {size} bytes on a credit of {stream.recv_window}")
        self.total += size

    def admit(self, length: int) -> None:
        """Look at a frame's announced length before anything of it is read. Raises Overflow when it is too much."""
        if length > FRAME_MOST or self.total + length > CONNECTION_BUFFER:
            log.info("peer_cut_off", frame=length, held=self.total)
            raise Overflow(f"a frame of {length} bytes on {self.total} held")

    def __setitem__(self, stream_id: int, data: bytearray) -> None:
        self.pop(stream_id, None)
        buffer = _Buffer(data)
        buffer.book, buffer.stream_id = self, stream_id
        self.total += len(buffer)
        super().__setitem__(stream_id, buffer)

    def pop(self, stream_id: int, *default: Any) -> Any:
        buffer = super().pop(stream_id, *default)
        if isinstance(buffer, _Buffer):
            self.total -= len(buffer)
            buffer.book = None  # a reader may still hold it
        return buffer

    def __delitem__(self, stream_id: int) -> None:
        self.pop(stream_id)

    def clear(self) -> None:
        for stream_id in list(self):
            self.pop(stream_id)


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    _stock_init(self, *args, **kwargs)
    self.stream_buffers = BufferBook(self.streams)


async def _read_data_body(self: Any, length: int) -> bytes:
    self.stream_buffers.admit(length)
    body: bytes = await _stock_body(self, length)
    return body


def _bounded_buffers() -> None:
    Yamux.__init__ = _init
    Yamux._read_data_body = _read_data_body


async def _accept_stream(self: Any) -> Any:
    """The next stream that the peer opens within its number; more are reset, a hoard of half-closed ones is the end."""
    while True:
        stream = await _stock_accept(self)
        if len(self.streams) <= STREAMS_PER_PEER or _open_inbound(self) <= STREAMS_PER_PEER:
            return stream
        refused: deque[Any] = self.__dict__.setdefault("pasar_refused", deque())
        if len(self.streams) > STREAMS_KEPT or len(refused) >= REFUSALS_MOST:
            log.info("peer_cut_off", peer=str(self.peer_id), streams=len(self.streams), refused=len(refused))
            await self.close(yamux.GO_AWAY_PROTOCOL_ERROR)
            continue
        refused.append(stream)
        if len(refused) == 1:
            self._nursery.start_soon(_refuse, refused)  # whoever waits here holds up the reading of the connection


async def _refuse(refused: deque[Any]) -> None:
    """Reset one after the other, all that wait: a peer that opens streams and never reads costs one task."""
    try:
        while refused:
            try:
                await refused[0].reset()
            except Exception as exc:  # the connection is breaking, in one of many ways; its reading task clears up
                log.debug("refusal_not_sent", error=type(exc).__name__)
            refused.popleft()
    finally:
        refused.clear()


def _open_inbound(conn: Any) -> int:
    return sum(not (stream.is_initiator or stream.send_closed) for stream in conn.streams.values())


def _stream_limit() -> None:
    Yamux.accept_stream = _accept_stream


async def _grant_credit(self: Any, *, bytes_read: int = 0) -> None:
    """Give the peer credit for what was read, once half a window of it has come together.

    Runs between taking bytes from the buffer and returning them, so it has no checkpoint: a cancellation here would
    lose those bytes. The frame is written by the connection's own task, and no reader ever waits for the peer to read.
    """
    self._pending_recv_release += bytes_read
    granted = self._pending_recv_release
    if granted < self.target_recv_window // 2 or self.conn.event_shutting_down.is_set():
        return
    self._pending_recv_release = 0
    self.recv_window += granted
    granted += self._apply_autotune_epoch(len(self.conn.stream_buffers.get(self.stream_id, b"")))
    try:
        self.conn._nursery.start_soon(_send_grant, self, granted)
    except RuntimeError:
        return  # the connection has ended and its nursery closed: nobody waits for credit any more


async def _send_grant(stream: Any, granted: int) -> None:
    try:
        await stream.send_window_update(granted)
    except Exception as exc:  # the connection is breaking, in one of many ways; its reading task clears up
        log.debug("grant_not_sent", error=type(exc).__name__)


def _few_grants() -> None:
    YamuxStream._auto_tune_and_send_window_update = _grant_credit


PATCHES = (
    Patch(
        "bounded-buffers",
        "a peer fills the memory through one stream",
        (
            Ground(Yamux, "__init__", "3b11a2a71ca444ca"),
            Ground(Yamux, "_read_data_body", "54cc06c91ba6ee15"),
            Ground(Yamux, "handle_incoming", "ad15ff6943feac20"),
            Ground(Yamux, "read_stream", "d07c99299384666d"),
            Ground(YamuxStream, "read", "ca585f2199fd4e83"),
        ),
        _bounded_buffers,
    ),
    Patch(
        "stream-limit",
        "a peer opens streams without end",
        (Ground(Yamux, "accept_stream", "167dcb5e053184fc"), Ground(YamuxStream, "reset", "8e40f901761d3ac0")),
        _stream_limit,
    ),
    Patch(
        "few-grants",
        "a window update for every read, and bytes lost when a read is cancelled in it",
        (
            Ground(YamuxStream, "_auto_tune_and_send_window_update", "6ebcbd822fe7f996"),
            Ground(YamuxStream, "_apply_autotune_epoch", "30126bc3d0c140c4"),
            Ground(YamuxStream, "send_window_update", "f76fe6e67077b4a3"),
        ),
        _few_grants,
        speed=True,
    ),
)
