"""Every cure over py-libp2p, shown by the attack it is for: death without it, life with it.

An attack is a script of its own in tests/attacks, because what it kills is a process.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2p import hardening
from p2p.errors import Misconfigured
from p2p.hardening import PATCHES, dialing, frames, pinned, receiving, sending
from p2p.hardening.quiet import LINES, WINDOW, Throttle

HERE = Path(__file__).parent
HEADER = struct.Struct(yamux.YAMUX_HEADER_FORMAT)
# attack -> what stderr says when the node without its cure is dead
DEATHS = {
    "bad_multistream": "UnicodeDecodeError",
    "bad_pubsub": "google.protobuf.message.DecodeError",
    "bad_gossip_key": "DecodeError",
    "deaf": "dead: deaf in turn 9",
    "cancelled_write": "dead: corrupt",
    "cancelled_read": "dead: lost bytes: got only b'second'",
    "paused_reader": "Timed out waiting for window update after 5 seconds",
    "unbounded_buffer": "dead: holds",
    "stream_flood": "dead: serves",
    "crossed_pings": "dead: a reply that cannot leave stops the reading",
    "slow_dial": "dead: waited 250 ms for nothing",
    "restarted_peer": "negative cache",
    "many_turns": "dead: takes 1",
    "many_reads": "dead: reads its socket 20",
    "many_waits": "dead: waits 10",
    "dead_twin": "dead: stream 0 went to the connection that is dead",
}


async def play(attack: str, cure: str) -> Any:
    with trio.fail_after(100):
        return await trio.run_process(
            [sys.executable, "-W", "ignore", str(HERE / "attacks" / f"{attack}.py"), cure],
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


@pytest.mark.live
@pytest.mark.parametrize("attack", DEATHS)
async def test_an_attack_kills_without_its_cure_and_not_with_it(attack: str) -> None:
    ends: dict[str, Any] = {}

    async def run(cure: str) -> None:
        ends[cure] = await play(attack, cure)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "off")
        nursery.start_soon(run, "on")
    without, cured = ends["off"], ends["on"]
    assert DEATHS[attack] in without.stderr.decode()
    assert without.returncode == 1
    assert b"Traceback" not in cured.stderr, cured.stderr.decode()
    assert cured.stdout.splitlines()[-1:] == [b"alive"], cured.stderr.decode()
    assert cured.returncode == 0


def test_every_attack_on_the_stage_is_played() -> None:
    assert {path.stem for path in (HERE / "attacks").glob("*.py")} - {"stage"} == set(DEATHS)


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "version", lambda _name: "0.8.2")
    with pytest.raises(Misconfigured, match=r"install libp2p==0\.8\.1"):
        pinned.check_version()


def test_a_function_that_reads_otherwise_is_refused() -> None:
    patch = PATCHES["fast-dial"]
    pinned.check_grounds([patch])
    other = replace(patch.grounds[0], fingerprint="0" * 16)
    with pytest.raises(Misconfigured, match=r"fast-dial: Swarm\.dial_peer reads"):
        pinned.check_grounds([replace(patch, grounds=(other,))])
    gone = replace(patch.grounds[0], name="dial_nobody")
    with pytest.raises(Misconfigured, match="dial_nobody"):
        pinned.check_grounds([replace(patch, grounds=(gone,))])


def test_install_puts_everything_in_once() -> None:
    hardening.install()
    writes = YamuxStream.write
    hardening.install()
    assert hardening.installed() == set(PATCHES)
    assert YamuxStream.write is writes
    with pytest.raises(ValueError, match="no such patch: inbond"):
        hardening.install(without={"inbond"})


def test_a_failed_dial_is_remembered_for_seconds_only() -> None:
    hardening.install()
    assert dialing._Cache()._ttl == dialing.FAILED_DIAL_MEMORY


class Line:
    """Stands for the secured connection under a muxer; takes bytes when it is ``open``."""

    is_initiator = True

    def __init__(self) -> None:
        self.written, self.open, self.closed = bytearray(), trio.Event(), False

    async def write(self, data: bytes) -> None:
        await self.open.wait()
        self.written += data

    async def read(self, _most: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def close(self) -> None:
        self.closed = True
        self.open.set()


class Jam(Line):
    """A peer that talks and never listens: it sends so many frames, and takes none."""

    def __init__(self, sent: list[bytes]) -> None:
        super().__init__()
        self.sent = b"".join(sent)

    async def read(self, _most: int) -> bytes:
        if not self.sent:
            await self.open.wait()
        some, self.sent = self.sent, b""
        return some


def a_stream(line: Line, stream_id: int = 1) -> Any:
    hardening.install()
    conn = Yamux(line, "peer")
    conn.streams[stream_id] = stream = YamuxStream(stream_id, conn, True)
    conn.stream_buffers[stream_id] = bytearray()
    return stream


async def test_a_frame_that_nobody_takes_closes_the_connection(autojump_clock: Any) -> None:
    line = Line()
    stream = a_stream(line)
    with pytest.raises(MuxedStreamError, match="the peer takes no bytes"):
        await stream.write(b"x")
    assert line.closed
    assert stream.conn.event_shutting_down.is_set()
    assert trio.current_time() == pytest.approx(sending.FRAME_STALL, abs=0.01)


async def jammed(sent: list[bytes]) -> tuple[Any, int]:
    """A connection to a peer that sends these and listens to no answer, and the most tasks that served it at once."""
    hardening.install()
    conn: Any = Yamux(Jam(sent), "peer")  # type: ignore[arg-type]

    async def accept() -> None:
        with suppress(MuxedConnUnavailable):
            while True:
                await conn.accept_stream()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        await conn.event_started.wait()
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        tasks = len(conn._nursery.child_tasks)
        await trio.sleep(sending.GOODBYE_STALL + 1)
        closed = conn.secured_conn.closed
        nursery.cancel_scope.cancel()
    return closed, tasks


def syn(number: int) -> bytes:
    return HEADER.pack(0, yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, 2 * number + 2, 0)


@pytest.mark.parametrize(("more", "closed"), [(-frames.IN_A_ROW, False), (frames.IN_A_ROW, True)])
async def test_streams_that_are_refused_in_vain_are_one_task_and_then_the_end(
    more: int, closed: bool, autojump_clock: Any
) -> None:
    streams = (
        receiving.STREAMS_PER_PEER + receiving.REFUSALS_MOST + more
    )  # that many are taken in before any is looked at
    was_closed, tasks = await jammed([syn(number) for number in range(streams)])
    assert was_closed == closed
    assert tasks < 8


@pytest.mark.parametrize(("more", "closed"), [(0, False), (1, True)])
async def test_answers_that_nobody_takes_are_one_task_and_then_the_end(
    more: int, closed: bool, autojump_clock: Any
) -> None:
    ping = HEADER.pack(0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, 7)
    was_closed, tasks = await jammed([ping] * (sending.REPLIES_MOST + more))
    assert was_closed == closed
    assert tasks < 8


async def test_a_host_that_is_cancelled_waits_for_no_peer(autojump_clock: Any) -> None:
    line = Line()
    conn = a_stream(line).conn
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.start)
        nursery.start_soon(conn._write_frame, bytes(100))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0
    assert line.closed


async def test_a_data_frame_is_cancelled_before_its_turn_and_gives_its_credit_back(autojump_clock: Any) -> None:
    line = Line()
    stream = a_stream(line)
    window = stream.send_window
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.conn._write_frame, bytes(100))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await stream.write(b"never sent")
        assert scope.cancelled_caught
        line.open.set()
    assert line.written == bytes(100)
    assert stream.send_window == window


async def test_a_writer_goes_on_with_the_credit_that_comes(autojump_clock: Any) -> None:
    line = Line()
    line.open.set()
    stream = a_stream(line)
    stream.send_window = 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, b"abcdef")
        await trio.sleep(sending.WINDOW_STALL - 1)
        assert line.written.endswith(b"abc")
        stream.send_window += 3
    assert line.written.endswith(b"def")


@pytest.mark.parametrize("end", ["closed", "send_closed"])
async def test_a_writer_without_credit_hears_that_its_stream_ended(autojump_clock: Any, end: str) -> None:
    stream = a_stream(Line())
    stream.send_window = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_later, stream, end)
        with pytest.raises(MuxedStreamError, match="closed for sending"):
            await stream.write(b"x")
    assert trio.current_time() == pytest.approx(1.0)


async def _end_later(stream: Any, how: str) -> None:
    await trio.sleep(1)
    setattr(stream, how, True)


async def test_the_book_of_buffers_always_knows_their_sum() -> None:
    stream = a_stream(Line())
    book = stream.conn.stream_buffers
    book[1].extend(b"12345")
    book[3] = bytearray(b"678")
    assert book.total == 8
    held = book[1]
    del held[:2]
    assert (book.total, bytes(held)) == (6, b"345")
    held.clear()
    assert book.total == 3
    held.extend(b"12")
    assert book.pop(1) is held
    del held[:1]  # a reader may go on with a buffer that is in no book any more
    assert book.total == 3
    assert book.pop(1, None) is None
    del book[3]
    assert book.total == 0
    book[5] = bytearray(b"x")
    book.clear()
    assert (book.total, len(book)) == (0, 0)


async def test_more_than_the_credit_is_an_overflow() -> None:
    stream = a_stream(Line())
    stream.conn.stream_buffers[1].extend(bytes(stream.recv_window))
    stream.recv_window = 0
    with pytest.raises(receiving.Overflow, match="stream 1: 1 bytes on a credit of 0"):
        stream.conn.stream_buffers[1].extend(b"x")


@pytest.mark.parametrize(
    ("held", "length"), [(0, receiving.FRAME_MOST + 1), (receiving.CONNECTION_BUFFER, 1)], ids=["frame", "connection"]
)
async def test_a_frame_that_is_too_much_is_refused_before_it_is_read(held: int, length: int) -> None:
    stream = a_stream(Line())
    stream.conn.stream_buffers.total = held
    with pytest.raises(receiving.Overflow):
        await stream.conn._read_data_body(length)


def a_record(text: str, *args: Any, name: str = "libp2p.stream_muxer.yamux", line: int = 1) -> logging.LogRecord:
    try:
        raise KeyError("a detail")
    except KeyError:
        return logging.LogRecord(name, logging.ERROR, "/x/libp2p/y.py", line, text, args, sys.exc_info())


def a_throttle(level: int = logging.DEBUG) -> tuple[Throttle, list[float]]:
    now = [0.0]
    log = logging.Logger("node", level)
    return Throttle(log, lambda: now[0]), now


def test_one_peer_gets_its_lines_and_no_more_until_the_window_ends() -> None:
    throttle, now = a_throttle()
    noisy, other = (
        "16Uiu2HAm4Ds6US8HoXzKisG8uNddPxXRmFjFb59PtPuQJVGAjXkz",
        "16Uiu2HAkyijox5iqqdiZVirX5wzgUaqhk2pep3HEn9",
    )
    passed = [throttle.filter(a_record("%s broke rule %d", noisy, n, line=n)) for n in range(LINES * 2)]
    assert passed == [True] * LINES + [False] * LINES
    assert throttle.dropped == LINES
    assert throttle.filter(a_record(f"{other} too"))
    now[0] = WINDOW
    assert throttle.filter(a_record(f"{noisy} again"))


def test_what_passes_is_one_line_of_debug_without_traceback() -> None:
    throttle, _ = a_throttle()
    record = a_record("first\nTraceback (most recent call last):\n %s", "x" * 5000)
    assert throttle.filter(record)
    assert logging.Formatter("%(levelname)s %(message)s").format(record) == "DEBUG first (KeyError)"


def test_the_library_is_silent_unless_debugging_and_others_pass_untouched() -> None:
    throttle, _ = a_throttle(logging.INFO)
    assert not throttle.filter(a_record("noise"))
    ours = logging.LogRecord("node", logging.ERROR, "/x/node.py", 1, "ours\nwhole", (), None)
    assert all(throttle.filter(ours) for _ in range(LINES * 2))
    assert ours.getMessage() == "ours\nwhole"


def test_the_subjects_of_the_log_are_bounded() -> None:
    throttle, _ = a_throttle()
    for n in range(3000):
        throttle.filter(a_record("no peer", line=n))
    assert len(throttle._seen) <= 1025
