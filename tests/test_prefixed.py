"""A length and its message read together are what they are read apart, however they come."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IncompleteReadError, MessageTooLarge
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub import pubsub
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.utils import encode_delim, encode_varint_prefixed, varint

from p2p import hardening
from p2p.hardening.prefixed import NEGOTIATION_MOST

MOST = 400


class Nowhere:
    """A secured connection that nothing is written to."""

    is_initiator = True


def a_stream() -> Any:
    """A stream of the real classes, whose buffer the test fills."""
    hardening.install()
    conn = Yamux(Nowhere(), "peer")  # type: ignore[arg-type]
    stream = YamuxStream(1, conn, True)
    conn.streams[1], conn.stream_buffers[1], conn.stream_events[1] = stream, bytearray(), trio.Event()
    return NetStream(stream, None, None)


async def feed(stream: Any, pieces: list[bytes]) -> None:
    muxed = stream.muxed_stream
    for piece in pieces:
        await trio.testing.wait_all_tasks_blocked()
        muxed.conn.stream_buffers[1].extend(piece)
        muxed.conn.stream_events[1].set()
    await trio.testing.wait_all_tasks_blocked()
    muxed.recv_closed = True
    muxed.conn.stream_events[1].set()


async def read_all(pieces: list[bytes], read: Any) -> list[Any]:
    """Every message, and the type of the error after them."""
    stream, heard = a_stream(), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, stream, pieces)
        while True:
            try:
                heard.append(await read(stream, MOST))
            except Exception as exc:
                return [*heard, type(exc)]


@given(st.lists(st.binary(max_size=MOST + 5), max_size=5), st.binary(max_size=12), st.data())
def test_any_bytes_in_any_pieces_are_read_as_the_library_reads_them(said: list[bytes], rest: bytes, data: Any) -> None:
    whole = b"".join(map(encode_varint_prefixed, said)) + rest
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if end > start]
    hardening.install()
    ours = trio.run(read_all, pieces, pubsub.read_varint_prefixed_bytes_limited)
    assert ours == trio.run(read_all, pieces, varint.read_varint_prefixed_bytes_limited)


async def test_a_message_that_waits_costs_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, asked = a_stream(), list[int]()
    stream.muxed_stream.conn.stream_buffers[1].extend(encode_varint_prefixed(bytes(300)) * 2)
    read = stream.read

    async def counted(most: int) -> Any:
        asked.append(most)
        return await read(most)

    monkeypatch.setattr(stream, "read", counted)
    for _ in range(2):
        assert await pubsub.read_varint_prefixed_bytes_limited(stream, MOST) == bytes(300)
    assert asked == [302, 302]


class Bytes:
    """A reader that is no stream of the muxer, as before a connection has one."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, most: int) -> bytes:
        piece, self.data = self.data[:most], self.data[most:]
        return piece


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"\xff" * 11, ParseError),
        (encode_varint_prefixed(b"no end of a line"), ParseError),
        (varint.encode_uvarint(NEGOTIATION_MOST + 1), ParseError),
        (b"\x05/ab", IncompleteReadError),
        (b"", IncompleteReadError),
    ],
    ids=["length", "line", "long", "cut", "nothing"],
)
async def test_a_negotiation_that_is_none_is_refused(said: bytes, error: type[Exception]) -> None:
    hardening.install()
    assert await MultiselectCommunicator(Bytes(encode_delim(b"/a/1"))).read() == "/a/1"  # type: ignore[arg-type]
    with pytest.raises(MultiselectCommunicatorError) as caught:
        await MultiselectCommunicator(Bytes(said)).read()  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, error)
    assert not isinstance(caught.value.__cause__, MessageTooLarge)
