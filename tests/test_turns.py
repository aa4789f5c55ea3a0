"""What saves turns of the loop keeps every byte, its order, and what a cancellation means."""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p import hardening
from p2p.hardening.frames import HEADER
from p2p.hardening.turns import PIECE
from p2p.quicklock import QuickLock


async def test_a_lock_serves_in_order_and_loses_nobody_who_is_cancelled(autojump_clock: Any) -> None:
    lock, served, scopes = QuickLock(), list[int](), [trio.CancelScope() for _ in range(4)]

    async def want(number: int) -> None:
        with scopes[number]:
            async with lock:
                served.append(number)
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(want, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[2].cancel()
        await trio.sleep(0.5)
        scopes[0].cancel()  # the one who holds it
    assert served == [0, 1, 3]
    async with lock:
        served.append(4)
    assert served[-1] == 4


async def test_who_was_woken_as_the_holder_and_then_cancelled_gives_the_lock_back() -> None:
    lock, ran = QuickLock(), list[str]()

    async def want(scope: trio.CancelScope) -> None:
        with scope:
            async with lock:
                ran.append("woken")
                await trio.sleep_forever()

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(want, scope)
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        with trio.fail_after(5):
            async with lock:
                ran.append("next")
    assert ran == ["woken", "next"]


async def test_a_free_lock_is_no_way_around_a_cancellation() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with QuickLock():
            raise AssertionError
    assert scope.cancelled_caught


class Pieces:
    """A connection that has its bytes in the pieces of a network, and None for a moment of silence."""

    def __init__(self, pieces: list[bytes | None]) -> None:
        self.pieces = deque(pieces)

    async def read(self, most: int) -> bytes:
        assert most == PIECE
        if not self.pieces:
            return b""
        piece = self.pieces.popleft()
        if piece is None:
            await trio.sleep_forever()
        assert piece is not None
        return piece


class Plain:
    """A cipher that leaves everything as it is, and asks for bytes as the real one does."""

    def encrypt(self, data: bytes) -> bytes:
        assert isinstance(data, bytes)
        return data

    def decrypt(self, data: bytes) -> bytes:
        assert isinstance(data, bytes)
        return data


def a_reader(pieces: list[bytes | None]) -> Any:
    hardening.install()
    return NoiseTransportReadWriter(Pieces(pieces), Plain())  # type: ignore[arg-type]


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_messages_come_whole_however_they_were_cut_and_cancelled(messages: list[bytes], data: Any) -> None:
    wire = b"".join(map(framed, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    pieces: list[bytes | None] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        pieces += [wire[start:end]] if end > start else [None]
    reader = a_reader(pieces)

    async def read_all() -> list[bytes]:
        heard = list[bytes]()
        while True:
            with trio.CancelScope() as scope:
                trio.lowlevel.spawn_system_task(_cancel_when_blocked, scope)
                try:
                    heard.append(await reader.read_msg())
                except IncompleteReadError as exc:
                    return heard if exc.is_clean_close else []

    assert trio.run(read_all) == messages


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize(("held", "expected"), [(b"\x00", 2), (b"\x00\x05abc", 7)], ids=["length", "body"])
async def test_an_end_within_a_message_is_not_clean(held: bytes, expected: int) -> None:
    reader = a_reader([framed(b"first") + held])
    assert await reader.read_msg() == b"first"
    with pytest.raises(IncompleteReadError) as caught:
        await reader.read_msg()
    assert (caught.value.expected_bytes, caught.value.received_bytes) == (expected, len(held))
    assert not caught.value.is_clean_close


async def a_pair() -> tuple[TrioTCPStream, trio.SocketStream]:
    hardening.install()
    ours, theirs = socket.socketpair()
    return (
        TrioTCPStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours))),
        trio.SocketStream(trio.socket.from_stdlib_socket(theirs)),
    )


def a_connection(tcp: TrioTCPStream) -> Any:
    """A muxer over all the layers of the real thing, but for the cipher."""
    session = SecureSession.__new__(SecureSession)
    session.conn = NoiseTransportReadWriter(RawConnection(tcp, True), Plain())  # type: ignore[arg-type]
    session._reset_internal_buffer()
    return Yamux(session, "peer", is_initiator=True)  # type: ignore[arg-type]


def data_frame(number: int) -> bytes:
    return HEADER.pack(0, yamux.TYPE_DATA, 0, 1, 60_000) + bytes([number]) * 60_000


PING = HEADER.pack(0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, 7)
PONG = HEADER.pack(0, yamux.TYPE_PING, yamux.FLAG_ACK, 0, 7)


async def heard_from(far: trio.SocketStream, count: int) -> list[bytes]:
    """So many frames, in the order in which they left."""
    reader = a_reader([])
    reader.read_writer.read_write_closer.read = far.receive_some
    return [await reader.read_msg() for _ in range(count)]


async def test_frames_of_many_writers_leave_whole_and_in_order_through_a_full_socket() -> None:
    tcp, far = await a_pair()
    conn = a_connection(tcp)
    frames = [data_frame(number) for number in range(12)] + [PING]
    async with trio.open_nursery() as nursery:
        for one in frames:
            nursery.start_soon(conn._write_frame, one)
            await trio.testing.wait_all_tasks_blocked()
        assert not conn._write_lock.free, "the socket took everything: nothing was tried"
        assert await heard_from(far, len(frames)) == frames
    await tcp.close()
    await far.aclose()


async def test_a_frame_is_cancelled_before_its_first_byte_or_not_at_all() -> None:
    tcp, far = await a_pair()
    conn = a_connection(tcp)
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn._write_frame(data_frame(99))
    assert scope.cancelled_caught
    begun, heard = list[bytes](), list[bytes]()

    async def drain() -> None:
        await trio.testing.wait_all_tasks_blocked()  # the writer is in the middle of a frame
        scope.cancel()
        heard.extend(await heard_from(far, len(begun)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        with trio.CancelScope() as scope:
            while True:
                begun.append(data_frame(len(begun)))
                await conn._write_frame(begun[-1])
    assert scope.cancelled_caught
    assert heard == begun[:-1]  # the last one was cancelled before its first byte
    assert len(heard) > 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn._write_frame(PING)  # a control frame is never lost
    assert await heard_from(far, 1) == [PING]
    await tcp.close()
    await far.aclose()


async def test_the_reading_task_hands_on_an_answer_that_the_socket_does_not_take() -> None:
    tcp, far = await a_pair()
    conn = a_connection(tcp)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            assert os.write(tcp.stream.socket.fileno(), framed(b"j")) == 3
            filled += 1
    async with trio.open_nursery() as nursery:
        conn._nursery = nursery
        with trio.fail_after(5):
            await conn._write_frame(PONG)  # returns while nothing can leave
        assert not conn._write_lock.free
        assert (await heard_from(far, filled + 1))[-1] == PONG
    assert conn._write_lock.free
    await tcp.close()
    await far.aclose()
