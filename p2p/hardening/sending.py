"""Yamux, sending: a frame is written whole or not at all, and a writer waits for its reader as long as it must.

Knows nothing of what the bytes mean. Both patches replace methods of the library's own classes, because every
connection of the process has to have them.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

import structlog
import trio
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2p.hardening.pinned import Ground, Patch

log = structlog.get_logger(__name__)

FRAME_STALL = 30.0  # seconds for one frame to leave, and for a control frame to get its turn
GOODBYE_STALL = 2.0  # the same for the frame that says goodbye: nobody waits longer for a peer that is left
REPLIES_MOST = 512  # acknowledgements of one connection that wait for their turn
WINDOW_STALL = 60.0  # seconds without a single byte of credit from the reader
# One frame fills one noise message. The library's own limit is 17 bytes more, which costs a second message each time.
FRAME_PAYLOAD: int = MAX_PLAINTEXT_LENGTH - yamux.HEADER_SIZE
_reading = Yamux.handle_incoming


async def _write_frame(self: Any, data: bytes) -> None:
    """Write one frame whole, or close the connection.

    Half a frame leaves the connection without a meaning for everything that follows, so from its first byte on a frame
    is out of reach of the caller's cancellation. A data frame may be cancelled while it waits for its turn, and then
    none of it was written. A control frame may not: a stream whose reset, grant or opening got lost hangs for good.
    """
    control = len(data) == yamux.HEADER_SIZE
    stall = stall_of(data)
    with trio.CancelScope(shield=control) as scope:
        if control:
            scope.deadline = trio.current_time() + stall
        async with self._write_lock:
            scope.shield = True
            scope.deadline = trio.current_time() + stall
            await self.secured_conn.write(data)
    if scope.cancelled_caught:
        await abandon(self)
        raise MuxedStreamError("the peer takes no bytes; the connection is closed")
    await trio.lowlevel.cancel_shielded_checkpoint()


def stall_of(frame: bytes) -> float:
    """Seconds that a frame may take to leave."""
    return GOODBYE_STALL if frame[1] == yamux.TYPE_GO_AWAY else FRAME_STALL


async def abandon(conn: Any) -> None:
    # The reading task of the connection wakes on the closed socket and clears up; its locks may be held by our caller.
    conn.event_shutting_down.set()
    await _close_socket(conn)


async def _close_socket(conn: Any) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_STALL):
        await conn.secured_conn.close()


async def _handle_incoming(self: Any) -> None:
    """Read until the connection ends. Then, or cancelled with the whole host, free whoever is still in a write."""
    try:
        await _reading(self)
    finally:
        await _close_socket(self)


def _whole_frames() -> None:
    global _reading
    _reading = Yamux.handle_incoming
    Yamux._write_frame = _write_frame
    Yamux.handle_incoming = _handle_incoming


async def _write_replies(conn: Any, waiting: deque[bytes]) -> None:
    """All that wait, one after the other: a task for each would cost a hundred times what its twelve bytes do."""
    try:
        while waiting:
            await _write_now(conn, waiting[0])
            waiting.popleft()
    except Exception as exc:  # the connection is breaking, in one of many ways; its reading task clears up
        log.debug("reply_not_sent", error=type(exc).__name__)
    finally:
        waiting.clear()


async def _write_unless_reply(self: Any, data: bytes) -> None:
    """Write one frame; but hand an acknowledgement, which only the reading task sends, to another task.

    A reader that waits until its reply is taken reads nothing meanwhile. When both ends do so, neither takes anything,
    and a ping that crosses a loaded connection is enough to stop it for good.
    """
    if not data[3] & yamux.FLAG_ACK or self._nursery is None:
        await _write_now(self, data)
        return
    waiting: deque[bytes] = self.__dict__.setdefault("pasar_replies", deque())
    if len(waiting) >= REPLIES_MOST:
        await abandon(self)
        raise MuxedStreamError("the peer asks and takes no answer; the connection is closed")
    waiting.append(data)
    if len(waiting) == 1:
        self._nursery.start_soon(_write_replies, self, waiting)


_write_now = Yamux._write_frame


def _free_reader() -> None:
    global _write_now
    _write_now = Yamux._write_frame
    Yamux._write_frame = _write_unless_reply


class _Waking:
    """An attribute of a stream whose every change wakes the stream's waiting writers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, stream: Any, owner: Any = None) -> Any:
        if stream is None:
            return self
        try:
            return stream.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None

    def __set__(self, stream: Any, value: Any) -> None:
        stream.__dict__[self.name] = value
        change: trio.Event | None = stream.__dict__.pop("_change", None)
        if change is not None:
            change.set()


async def _write(self: Any, data: bytes) -> None:
    """Write all of ``data``, waiting for the reader's credit as long as any comes within WINDOW_STALL seconds.

    Cancelled, it has written whole frames only; the caller cannot know how many, so that its stream is spent.
    """
    view = memoryview(data)
    sent = 0
    while sent < len(view):
        size = min(await _credit(self), FRAME_PAYLOAD, len(view) - sent)
        self.send_window -= size
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, size)
        try:
            await self.conn._write_frame(header + view[sent : sent + size])
        except trio.Cancelled:
            self.send_window += size  # cancelled before its turn: the frame never left
            raise
        sent += size


async def _credit(stream: Any) -> int:
    """Bytes that the reader will take now, at least one. No checkpoint lies between the last look and the return."""
    while True:
        if stream.send_closed or stream.closed:
            raise MuxedStreamError("the stream is closed for sending")
        if stream.send_window > 0:
            window: int = stream.send_window
            return window
        change = stream.__dict__.setdefault("_change", trio.Event())
        with trio.move_on_after(WINDOW_STALL) as scope:
            await change.wait()
        if scope.cancelled_caught:
            raise MuxedStreamError(f"the reader took nothing for {WINDOW_STALL:.0f} s")


def _patient_writes() -> None:
    for name in ("send_window", "closed", "send_closed"):
        setattr(YamuxStream, name, _Waking(name))
    YamuxStream.write = _write


PATCHES = (
    Patch(
        "whole-frames",
        "a cancelled write corrupts the connection and every stream on it",
        (
            Ground(Yamux, "handle_incoming", "ad15ff6943feac20"),
            Ground(Yamux, "start", "bd1a114758a61e42"),
            Ground(Yamux, "_write_frame", "16ff969cdd0d2b1b"),
            Ground(Yamux, "close", "d80b27e69ccd1b89"),
        ),
        _whole_frames,
    ),
    Patch(
        "free-reader",
        "two ends that answer each other's pings under load stop reading for good",
        (Ground(Yamux, "_write_frame", "16ff969cdd0d2b1b"), Ground(Yamux, "handle_incoming", "ad15ff6943feac20")),
        _free_reader,
    ),
    Patch(
        "patient-writes",
        "a reader that pauses for 5 s costs the writer its stream",
        (
            Ground(YamuxStream, "write", "d87f74dfb53ab194"),
            Ground(YamuxStream, "__init__", "ab24c0709285d573"),
            Ground(Yamux, "handle_incoming", "ad15ff6943feac20"),
            Ground(Yamux, "_cleanup_on_error", "4fed61a999a34989"),
        ),
        _patient_writes,
    ),
)
