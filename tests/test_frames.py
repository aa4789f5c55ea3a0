"""Our loop over yamux frames does what the library's does, for any frames in any pieces; and what a reader is told."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux

from p2p import hardening
from p2p.hardening.frames import HEADER
from p2p.hardening.receiving import FRAME_MOST

SYN, ACK, FIN, RST = yamux.FLAG_SYN, yamux.FLAG_ACK, yamux.FLAG_FIN, yamux.FLAG_RST
DATA, CREDIT, PING, GO_AWAY = yamux.TYPE_DATA, yamux.TYPE_WINDOW_UPDATE, yamux.TYPE_PING, yamux.TYPE_GO_AWAY
OURS = 2  # the stream that our end opened; the far end's are odd


def as_released() -> ModuleType:
    """The library's module once more, without a patch."""
    spec = importlib.util.spec_from_file_location("yamux_as_released", yamux.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STOCK = as_released()


class Wire:
    """A secured connection that brings given pieces, as they are asked for, and keeps what is written."""

    is_initiator = False

    def __init__(self, pieces: list[bytes]) -> None:
        self.held, self.pieces, self.written = b"", list(pieces), list[bytes]()
        self.silent = trio.Event()

    async def read(self, most: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.held and not self.pieces:
            self.silent.set()
            await trio.sleep_forever()
        self.held = self.held or self.pieces.pop(0)
        cut = len(self.held) if most is None else most
        data, self.held = self.held[:cut], self.held[cut:]
        return data

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def close(self) -> None: ...


async def after(module: Any, pieces: list[bytes], half_closed: bool) -> dict[str, Any]:
    """Everything about a connection that took these pieces in, with one stream that it had opened before."""
    wire = Wire(pieces)
    conn = module.Yamux(wire, "peer")
    conn.streams[OURS], conn.stream_events[OURS] = module.YamuxStream(OURS, conn, True), trio.Event()
    conn.streams[OURS].send_closed = half_closed
    conn.stream_buffers[OURS] = bytearray()
    conn.next_stream_id = 4
    accepted = list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_accept, conn, accepted)
        nursery.start_soon(conn.start)
        with trio.move_on_after(10):
            await wire.silent.wait()
        await trio.testing.wait_all_tasks_blocked()
        state = {
            "streams": {number: _shape(conn, stream) for number, stream in conn.streams.items()},
            "accepted": [stream.stream_id for stream in accepted],
            "written": sorted(frame for frame in wire.written if frame[1] != PING or frame[3] & ACK),
            "ended": conn.event_shutting_down.is_set(),
        }
        nursery.cancel_scope.cancel()
    return state


async def _accept(conn: Any, accepted: list[Any]) -> None:
    async for stream in conn.new_stream_receive_channel:
        accepted.append(stream)


def _shape(conn: Any, stream: Any) -> tuple[Any, ...]:
    flags = stream.closed, stream.recv_closed, stream.reset_received
    windows = stream.send_window, stream.recv_window
    return (*flags, *windows, bytes(conn.stream_buffers[stream.stream_id]))


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"", length: int | None = None) -> bytes:
    return HEADER.pack(0, kind, flags, stream_id, len(body) if length is None else length) + body


# Left out: what the library gets wrong. It forgets FIN and RST beside ACK, hands out a stream that is born dead, and
# lets the far end open a stream under a number of ours.
ODD = st.sampled_from([1, 3, 5])
frames = st.one_of(
    st.builds(frame, st.just(DATA), st.sampled_from([0, 0, FIN, RST, FIN | RST, ACK]), ODD | st.just(OURS),
              st.binary(max_size=40)),
    st.builds(frame, st.just(DATA), st.sampled_from([SYN, SYN | FIN]), ODD, st.binary(max_size=40)),
    st.builds(frame, st.just(CREDIT), st.sampled_from([0, FIN, RST, ACK]), ODD | st.just(OURS), st.just(b""),
              st.integers(0, 99)),
    st.builds(frame, st.just(CREDIT), st.sampled_from([SYN, SYN | FIN]), ODD, st.just(b""), st.integers(0, 99)),
    st.builds(frame, st.just(PING), st.sampled_from([SYN, ACK]), st.just(0), st.just(b""), st.integers(0, 9)),
    st.builds(frame, st.just(9), st.just(0), st.just(0)),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(frames, max_size=14), st.booleans(), st.data())
def test_any_frames_leave_a_connection_as_the_library_leaves_it(
    said: list[bytes], half_closed: bool, data: Any
) -> None:
    hardening.install()
    whole = b"".join(said)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if end > start]
    clocks = (trio.testing.MockClock(autojump_threshold=0.01) for _ in range(2))
    ours = trio.run(after, yamux, pieces, half_closed, clock=next(clocks))
    assert ours == trio.run(after, STOCK, pieces, half_closed, clock=next(clocks))


def opened(*more: bytes) -> list[bytes]:
    return [frame(CREDIT, SYN, 1), *more]


async def told(pieces: list[bytes], act: Callable[[Any, Any], Any]) -> Any:
    """What ``act(stream, conn)`` gives on the stream 1 of a connection that took these pieces in."""
    hardening.install()
    wire = Wire(pieces)
    conn = yamux.Yamux(wire, "peer")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        stream = await conn.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            found = await act(stream, conn)
        nursery.cancel_scope.cancel()
    return found


async def read_all(stream: Any, _conn: Any) -> list[bytes | str]:
    heard = list[bytes | str]()
    while True:
        try:
            heard.append(await stream.read(3))
        except (MuxedStreamEOF, MuxedStreamReset) as exc:
            return [*heard, type(exc).__name__]


@pytest.mark.parametrize(
    ("pieces", "heard"),
    [
        ([frame(DATA, FIN, 1, b"whole")], [b"who", b"le", "MuxedStreamEOF"]),
        ([frame(DATA, 0, 1, b"gone"), frame(CREDIT, RST, 1)], ["MuxedStreamReset"]),
        ([frame(DATA, FIN, 1, b"kept"), frame(CREDIT, RST, 1)], [b"kep", b"t", "MuxedStreamReset"]),
        ([frame(DATA, 0, 1, b"lost"), frame(GO_AWAY, 0, 0)], ["MuxedStreamReset"]),
        ([b""], ["MuxedStreamReset"]),
        ([frame(DATA, 0, 1, length=5) + b"ha", b""], ["MuxedStreamReset"]),
        ([frame(DATA, 0, 1, length=FRAME_MOST + 1)], ["MuxedStreamReset"]),
        ([frame(CREDIT, ACK | FIN, 1)], ["MuxedStreamEOF"]),
    ],
    ids=["fin", "reset", "fin-then-reset", "goodbye", "end", "end-in-a-frame", "too-much", "fin-with-ack"],
)
async def test_a_reader_hears_all_that_came_and_then_how_it_ended(pieces: list[bytes], heard: list[Any]) -> None:
    assert await told(opened(*pieces), read_all) == heard


async def test_a_reader_that_waits_is_woken_by_bytes_and_by_the_end() -> None:
    async def act(stream: Any, conn: Any) -> list[Any]:
        heard = list[Any]()

        async def read() -> None:
            heard.extend(await read_all(stream, conn))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            conn.stream_buffers[1].extend(b"now")
            conn.stream_events[1].set()
            await trio.testing.wait_all_tasks_blocked()
            await conn._cleanup_on_error()
        return heard

    assert await told(opened(), act) == [b"now", "MuxedStreamReset"]


async def test_a_cancelled_read_takes_nothing_and_the_next_one_all() -> None:
    async def act(stream: Any, _conn: Any) -> Any:
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.read(3)
        assert scope.cancelled_caught
        return await stream.read()

    assert await told(opened(frame(DATA, 0, 1, b"everything")), act) == b"everything"


async def test_many_small_reads_let_others_run() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def act(stream: Any, _conn: Any) -> bytes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            heard = b"".join([await stream.read(1) for _ in range(1000)])
            nursery.cancel_scope.cancel()
        return heard

    assert await told(opened(frame(DATA, 0, 1, bytes(1000))), act) == bytes(1000)
    assert turns > 20


async def test_a_stream_of_our_own_number_is_refused() -> None:
    hardening.install()
    wire = Wire([frame(CREDIT, SYN, 4)])
    conn = yamux.Yamux(wire, "peer")  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        await wire.silent.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert conn.streams == {}
        assert frame(CREDIT, RST, 4) in wire.written
        nursery.cancel_scope.cancel()
