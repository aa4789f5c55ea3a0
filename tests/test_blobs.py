"""Blobs in chunks: windows, repeats, order, resumption, and the drivers over a stream."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.blobs import (
    CHUNK,
    MAX_BLOB,
    WINDOW,
    BlobHave,
    BlobHead,
    Chunk,
    ChunkAck,
    Incoming,
    Outgoing,
    chunk_size,
    from_bitmap,
    to_bitmap,
)
from p2p.codec import decode, encode
from p2p.errors import MalformedMessage, Refused, Unavailable
from p2p.memory import MemoryNetwork, running
from p2p.peer import peer_of
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transfer import receive_blob, receive_bytes, send_blob
from p2p.transport import PeerAddrs

BLOB = bytes(16)


def blob_of(size: int) -> tuple[BlobHead, bytes]:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    return BlobHead(BLOB, size, sha256(data[:size]).digest()), data[:size]


def piece(data: bytes, index: int) -> bytes:
    return data[index * CHUNK : (index + 1) * CHUNK]


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()
        self.writes = 0

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(b"\0" * (offset + len(data) - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.writes += 1


@given(st.data())
def test_any_order_with_repeats_gives_the_same_bytes(data):
    head, blob = blob_of(data.draw(st.sampled_from([0, 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1])))
    outgoing, sink = Outgoing(head, window=3 * CHUNK), Sink()
    incoming = Incoming(head, sink.write)
    chunks = []
    while (index := outgoing.next_index()) is not None:
        chunks.append(outgoing.chunk(index, piece(blob, index)))
    arrivals = data.draw(st.permutations(chunks + chunks[:1]))
    for chunk in arrivals:
        outgoing.acked(incoming.take(chunk))
    assert outgoing.done
    assert incoming.complete
    assert incoming.missing() == []
    assert bytes(sink.data) == blob
    assert sink.writes == len(chunks)
    incoming.check(sha256(blob).digest())


@given(st.integers(0, 9 * CHUNK), st.sets(st.integers(0, 8)), st.randoms(use_true_random=False))
def test_the_window_is_kept_and_what_is_there_is_not_sent(size, there, random):
    head = BlobHead(BLOB, size, bytes(32))
    count = -(-size // CHUNK)
    there = {index for index in there if index < count}
    outgoing = Outgoing(head, have=to_bitmap(there))
    under_way: list[int] = []
    sent = []
    while not outgoing.done:
        while (index := outgoing.next_index()) is not None:
            under_way.append(index)
            sent.append(index)
            assert sum(chunk_size(size, i) for i in under_way) <= WINDOW
        outgoing.acked(ChunkAck(BLOB, under_way.pop(random.randrange(len(under_way)))))
    assert set(sent) == set(range(count)) - there
    assert all(a < b for a, b in pairwise(sent))


def test_a_full_window_waits_for_an_acknowledgement():
    outgoing = Outgoing(BlobHead(BLOB, 6 * CHUNK, bytes(32)))
    assert [outgoing.next_index() for _ in range(5)] == [0, 1, 2, 3, None]
    outgoing.acked(ChunkAck(BLOB, 2))
    assert [outgoing.next_index() for _ in range(2)] == [4, None]
    outgoing.acked(ChunkAck(BLOB, 2))  # late and twice
    assert outgoing.next_index() is None


def test_lies_are_refused():
    head, blob = blob_of(CHUNK + 5)
    sink = Sink()
    incoming = Incoming(head, sink.write)
    good = Chunk(BLOB, 1, sha256(blob[CHUNK:]).digest(), blob[CHUNK:])
    lies = [
        replace(good, blob=b"x" * 16),
        replace(good, index=2),
        replace(good, index=0),
        replace(good, data=blob[CHUNK:-1]),
        replace(good, digest=bytes(32)),
    ]
    for lie in lies:
        with pytest.raises(MalformedMessage):
            incoming.take(lie)
    assert sink.writes == 0
    incoming.take(good)
    with pytest.raises(MalformedMessage):
        incoming.check(head.digest)  # one chunk is missing
    outgoing = Outgoing(head)
    for ack in (ChunkAck(BLOB, 0), ChunkAck(b"x" * 16, 0)):
        with pytest.raises(MalformedMessage):
            outgoing.acked(ack)  # nothing was sent yet
    with pytest.raises(MalformedMessage):
        Outgoing(head, have=to_bitmap({5}))


def test_a_size_above_the_cap_is_refused_before_anything_is_kept():
    with pytest.raises(Refused) as caught:
        Incoming(BlobHead(BLOB, MAX_BLOB, bytes(32)), Sink().write, cap=CHUNK)
    assert (caught.value.code, caught.value.have, caught.value.need) == ("TOO_LARGE", CHUNK, MAX_BLOB)


@given(st.sets(st.integers(0, 2047)))
def test_bitmaps(indexes):
    assert from_bitmap(to_bitmap(indexes), 2048) == indexes


def test_the_largest_chunk_fits_its_frame():
    chunk = Chunk(BLOB, 2047, bytes(32), bytes(CHUNK))
    assert len(encode(chunk)) <= JOB_FRAME
    assert decode(encode(chunk), JOB_FRAME) == chunk


@pytest.mark.parametrize("size", [1, 255, 256, 16_383, 16_384, 65_535, 65_536, CHUNK])
def test_a_chunk_is_encoded_as_any_message_whatever_its_length(size):
    chunk = Chunk(BLOB, 7, bytes(32), b"\xc4" * size)
    packed = msgpack.packb(["chunk", 1, BLOB, 7, bytes(32), chunk.data], use_bin_type=True)
    assert encode(chunk) == packed
    assert decode(packed, JOB_FRAME) == chunk
    for wrong in (packed + b"\0", packed[:-1], packed.replace(b"\x07", b"\xcc\x07", 1)):
        with pytest.raises(MalformedMessage):
            decode(wrong, JOB_FRAME)


def test_a_length_in_more_bytes_than_it_needs_is_refused():
    chunk = encode(Chunk(BLOB, 7, bytes(32), bytes(20_000)))
    head = chunk[:-20_003]
    assert chunk[len(head) : len(head) + 3] == b"\xc5" + (20_000).to_bytes(2, "big")
    with pytest.raises(MalformedMessage):
        decode(head + b"\xc6" + (20_000).to_bytes(4, "big") + bytes(20_000), JOB_FRAME)


async def transfer(send, receive):
    network = MemoryNetwork(latency=0.001)
    one, two = network.node(peer_of(b"\x02" + bytes(32))), network.node(peer_of(b"\x03" + bytes(32)))
    results = []

    async def accept(stream):
        results.append(await receive(MessageStream(stream, JOB_FRAME)))

    two.serve("/t", accept)
    async with running(one, two):
        await one.connect(PeerAddrs(two.peer, tuple(a.partition("/p2p/")[0] for a in two.addrs())))
        stream = MessageStream(await one.open(two.peer, "/t"), JOB_FRAME)
        try:
            await send(stream)
            await stream.finish()
            await stream.receive(5)
        finally:
            results.extend(two.failures)
    return results


@pytest.mark.parametrize("size", [0, 1, 9 * CHUNK + 7])
async def test_a_file_arrives_as_a_file(size, tmp_path):  # a mock clock would run ahead of the threads
    head, blob = blob_of(size)
    (tmp_path / "source").write_bytes(blob)
    (received,) = await transfer(
        lambda stream: send_blob(stream, BLOB, tmp_path / "source"),
        lambda stream: receive_blob(stream, tmp_path / "sink"),
    )
    assert received == head
    assert (tmp_path / "sink").read_bytes() == blob


async def test_bytes_arrive_as_bytes():
    _, blob = blob_of(5 * CHUNK)
    got = await transfer(
        lambda stream: send_blob(stream, BLOB, blob), lambda stream: receive_bytes(stream, cap=len(blob))
    )
    assert got == [blob]


@pytest.mark.parametrize("size", [1, CHUNK, 5 * CHUNK])
async def test_a_digest_that_the_sender_only_claims_is_found_out(size):
    _, blob = blob_of(size)
    results = list[Any]()

    async def receive(stream):
        with pytest.raises(MalformedMessage):
            await receive_bytes(stream, cap=size)
        results.append("refused")
        return "refused"

    with suppress(Unavailable):
        await transfer(lambda stream: send_blob(stream, BLOB, blob, digest=bytes(32)), receive)
    assert results == ["refused"]
    assert await transfer(
        lambda stream: send_blob(stream, BLOB, blob, digest=sha256(blob).digest()),
        lambda stream: receive_bytes(stream, cap=size),
    ) == [blob]


async def test_the_receiver_refuses_what_is_too_large(tmp_path):
    _, blob = blob_of(CHUNK + 1)
    with pytest.raises(Unavailable):
        await transfer(
            lambda stream: send_blob(stream, BLOB, blob),
            lambda stream: receive_blob(stream, tmp_path / "sink", cap=CHUNK),
        )
    assert (tmp_path / "sink").stat().st_size == 0


async def test_nonsense_from_the_receiver_is_its_fault():
    async def receive(stream):
        await stream.receive()
        await stream.send(BlobHave(BLOB, b""))
        await stream.send(ChunkAck(BLOB, 7))
        await trio.sleep(1)

    with pytest.raises(MalformedMessage):
        await transfer(lambda stream: send_blob(stream, BLOB, bytes(8 * CHUNK)), receive)
