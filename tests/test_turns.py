"""What saves turns of the loop keeps every byte, its order, and what a cancellation means."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.security.noise.io import NoiseTransportReadWriter

from p2p import hardening
from p2p.hardening.turns import PIECE, QuickLock


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


async def test_what_the_socket_does_not_take_at_once_follows_in_order() -> None:
    tcp, far = await a_pair()
    said = [bytes([number]) * 300_000 for number in range(5)]
    async with trio.open_nursery() as nursery:
        for data in said:
            nursery.start_soon(tcp.write, data)
            await trio.testing.wait_all_tasks_blocked()
        heard = bytearray()
        while len(heard) < sum(map(len, said)):
            heard += await far.receive_some(65536)
    assert heard == b"".join(said)
    await tcp.close()
    await far.aclose()


async def test_a_write_to_a_broken_connection_raises_and_to_one_we_closed_does_not() -> None:
    tcp, far = await a_pair()
    await far.aclose()
    with pytest.raises(ConnectionClosedError):
        await tcp.write(b"x")
    await tcp.close()
    await tcp.write(b"x")
