"""Parcels: the blobs of one job, both ways, over whatever streams the job has.

What we may be asked for is offered, from memory or read piece by piece where it lies; what we wait for is expected by
digest and size, and only that is taken in. A lost stream loses nothing that was written. What comes in is held in
memory, at most ``MAX_HELD`` and ``MAX_EXPECTED`` blobs for a job: larger results are refused by name. The pure windows
of ``p2p/blobs.py`` decide; knows no session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256

import trio

from compute.spec import MAX_INPUTS
from market.jobwire import MAX_ARTIFACTS, BlobHave, BlobRef
from p2p.blobs import CHUNK, BlobHead, Chunk, ChunkAck, Incoming, Outgoing, chunk_size
from p2p.errors import MalformedMessage, PeerFault
from p2p.stream import MessageStream

MAX_HELD = 64 * 2**20  # a picture of 1024 x 1024 is 4 MiB at most
REPEATS = 4  # times that a blob is sent whole, before whoever asks for it again is left: it says what it has
MAX_EXPECTED = MAX_ARTIFACTS + MAX_INPUTS  # as many as a Resume can speak of

Read = Callable[[int, int], Awaitable[bytes]]  # offset and length -> the bytes there


class Parcels:
    """Every blob is whole and has its digest before ``get`` gives it."""

    def __init__(self) -> None:
        self._offered: dict[bytes, tuple[BlobRef, bytes | Read]] = {}
        self._incoming: dict[bytes, Incoming] = {}
        self._parts: dict[bytes, dict[int, bytes]] = {}
        self._whole: dict[bytes, bytes] = {}
        self._sending: dict[bytes, tuple[Outgoing, trio.Event]] = {}
        self._sent: dict[bytes, int] = {}
        self.acks = 0  # chunks that the other side wrote

    def offer(self, ref: BlobRef, data: bytes | Read) -> None:
        """These bytes may be sent from now on; ``ref`` is theirs."""
        self._offered[ref.blob] = (ref, data)

    def keep(self, ref: BlobRef, data: bytes) -> None:
        """Here from before: whole, and its digest was right."""
        self._whole[ref.blob] = data

    def expect(self, ref: BlobRef) -> bool:
        """Take this blob in when it comes; whether it is here already.

        Raises Refused TOO_LARGE, and PeerFault for one more than a job can have.
        """
        if ref.blob in self._whole:
            return True
        if ref.blob not in self._incoming:
            if len(self._incoming.keys() | self._whole.keys()) >= MAX_EXPECTED:
                raise PeerFault("more files than a job has")
            held = sum(incoming.head.size for incoming in self._incoming.values())
            parts = self._parts[ref.blob] = {}
            head = BlobHead(ref.blob, ref.size, ref.digest)
            self._incoming[ref.blob] = Incoming(head, parts.__setitem__, cap=MAX_HELD - held)
        return self._settle(ref.blob)

    def get(self, ref: BlobRef) -> bytes | None:
        """The whole blob, or None while it is not here."""
        return self._whole.get(ref.blob)

    def let_go(self, ref: BlobRef) -> None:
        """Hold the bytes of what was received no longer."""
        self._whole.pop(ref.blob, None)
        self._incoming.pop(ref.blob, None)
        self._parts.pop(ref.blob, None)

    def haves(self) -> tuple[BlobHave, ...]:
        """Which chunks of what is expected are here."""
        found = {blob: _all_chunks(len(data)) for blob, data in self._whole.items()}
        found |= {blob: incoming.have().bitmap for blob, incoming in self._incoming.items()}
        return tuple(BlobHave(blob, bitmap) for blob, bitmap in found.items() if bitmap)

    def take(self, chunk: Chunk) -> tuple[ChunkAck, bool]:
        """Write a chunk: its acknowledgement, and whether the blob is whole with it.

        Raises MalformedMessage for a chunk nobody waits for, or with the wrong bytes.
        """
        incoming = self._incoming.get(chunk.blob)
        if incoming is None and chunk.blob in self._whole:
            return ChunkAck(chunk.blob, chunk.index), False
        if incoming is None:
            raise MalformedMessage("a chunk of a blob that nobody waits for")
        was_here = chunk.blob in self._whole
        ack = incoming.take(chunk) if not was_here else ChunkAck(chunk.blob, chunk.index)
        return ack, not was_here and self._settle(chunk.blob)

    def acked(self, ack: ChunkAck) -> None:
        """The other side has written a chunk. One about a blob that is not under way is nothing."""
        if ack.blob in self._sending:
            outgoing, room = self._sending[ack.blob]
            before = outgoing.left
            outgoing.acked(ack)
            self.acks += before - outgoing.left
            room.set()

    async def send(self, stream: MessageStream, blob: bytes, have: bytes = b"") -> bool:
        """Send what is not in ``have``; True when every chunk is acknowledged. Raises Unavailable, MalformedMessage.

        False for a blob that is not on offer, or is under way already.
        """
        if blob not in self._offered or blob in self._sending:
            return False
        ref, data = self._offered[blob]
        outgoing = Outgoing(BlobHead(blob, ref.size, ref.digest), have=have)
        try:
            while not outgoing.done:
                room = trio.Event()
                self._sending[blob] = (outgoing, room)
                while (index := outgoing.next_index()) is not None:
                    self._spend(ref, chunk_size(ref.size, index))
                    await stream.send(outgoing.chunk(index, await _piece(data, index, ref.size)))
                if not outgoing.done:
                    await room.wait()
        finally:
            self._sending.pop(blob, None)
        return True

    def _spend(self, ref: BlobRef, size: int) -> None:
        """Count bytes that leave. Raises PeerFault when they have left too often."""
        sent = self._sent.get(ref.blob, 0) + size
        if sent > REPEATS * ref.size:
            raise PeerFault("the same bytes were asked for too often")
        self._sent[ref.blob] = sent

    def forget(self) -> None:
        """Nothing of this job is needed any more."""
        for held in (self._offered, self._incoming, self._parts, self._whole, self._sent):
            held.clear()

    def _settle(self, blob: bytes) -> bool:
        incoming = self._incoming[blob]
        if not incoming.complete:
            return False
        parts = self._parts[blob]
        whole = b"".join(parts[offset] for offset in sorted(parts))
        incoming.check(sha256(whole).digest())
        self._whole[blob] = whole
        parts.clear()
        return True


async def _piece(data: bytes | Read, index: int, size: int) -> bytes:
    offset, length = index * CHUNK, chunk_size(size, index)
    return data[offset : offset + length] if isinstance(data, bytes) else await data(offset, length)


def _all_chunks(size: int) -> bytes:
    chunks = -(-size // CHUNK)
    return ((1 << chunks) - 1).to_bytes(-(-chunks // 8), "little")
