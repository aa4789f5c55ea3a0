"""Files in chunks: what to send now, what came, what is missing. The machines of both ends of a transfer.

    Outgoing: head() -> next chunks under the window -> acked(...) -> done
    Incoming: take(chunk) -> write it, acknowledge it -> missing() -> finished

Pure, so that a job's stream can interleave chunks with its other messages. Chunks may come twice and in any order; each
is checked by its digest and the whole by its own. What is already there, as a bitmap, is not sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from p2p.codec import Hash, Range, Size, message
from p2p.errors import MalformedMessage, Refused

CHUNK = 1024 * 1024
WINDOW = 4 * CHUNK  # sent and not acknowledged
MAX_BLOB = 2 * 1024**3
MAX_CHUNKS = MAX_BLOB // CHUNK

BlobId = Annotated[bytes, Size(16, 16)]
ChunkIndex = Annotated[int, Range(0, MAX_CHUNKS - 1)]


@message("blob-head", 1)
@dataclass(frozen=True, slots=True)
class BlobHead:
    """What follows: ``size`` bytes with this digest, in chunks of 1 MiB, the last one shorter."""

    blob: BlobId
    size: Annotated[int, Range(0, MAX_BLOB)]
    digest: Hash


@message("chunk", 1)
@dataclass(frozen=True, slots=True)
class Chunk:
    blob: BlobId
    index: ChunkIndex
    digest: Hash
    data: Annotated[bytes, Size(1, CHUNK)]


@message("chunk-ack", 1)
@dataclass(frozen=True, slots=True)
class ChunkAck:
    """The chunk is written and checked."""

    blob: BlobId
    index: ChunkIndex


@message("blob-have", 1)
@dataclass(frozen=True, slots=True)
class BlobHave:
    """The answer to a head: which chunks are there already, bit ``i % 8`` of byte ``i // 8`` for chunk ``i``."""

    blob: BlobId
    bitmap: Annotated[bytes, Size(0, MAX_CHUNKS // 8)]


def chunk_count(size: int) -> int:
    return -(-size // CHUNK)


def chunk_size(size: int, index: int) -> int:
    """How many bytes chunk ``index`` of a blob of ``size`` bytes has."""
    return min(CHUNK, size - index * CHUNK)


def to_bitmap(indexes: set[int]) -> bytes:
    bitmap = bytearray(max(indexes, default=-1) // 8 + 1)
    for index in indexes:
        bitmap[index // 8] |= 1 << index % 8
    return bytes(bitmap)


def from_bitmap(bitmap: bytes, count: int) -> set[int]:
    """The indexes set in ``bitmap``. Raises MalformedMessage for one that the blob does not have."""
    indexes = {8 * place + bit for place, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}
    if any(index >= count for index in indexes):
        raise MalformedMessage("a chunk that the blob does not have")
    return indexes


class Outgoing:
    """Never has more than ``window`` bytes under way, and sends each chunk once unless ``again`` is called."""

    def __init__(self, head: BlobHead, *, have: bytes = b"", window: int = WINDOW) -> None:
        """``have`` is the other side's bitmap. Raises MalformedMessage when it is none of this blob."""
        if window < CHUNK:
            raise ValueError("the window holds at least one chunk")
        self.head, self._window = head, window
        self._there = from_bitmap(have, self.count)
        self._waiting = deque(index for index in range(self.count) if index not in self._there)
        self._under_way: set[int] = set()

    @property
    def count(self) -> int:
        return chunk_count(self.head.size)

    @property
    def done(self) -> bool:
        """Whether every chunk is acknowledged."""
        return len(self._there) == self.count

    @property
    def left(self) -> int:
        """How many chunks are not acknowledged."""
        return self.count - len(self._there)

    @property
    def waiting(self) -> bool:
        """Whether there are chunks that ``next_index`` has not given out."""
        return bool(self._waiting)

    def next_index(self) -> int | None:
        """The chunk to read and send now, or None while the window is full or nothing is left."""
        if not self._waiting:
            return None
        under_way = sum(chunk_size(self.head.size, index) for index in self._under_way)
        if under_way + chunk_size(self.head.size, self._waiting[0]) > self._window:
            return None
        index = self._waiting.popleft()
        self._under_way.add(index)
        return index

    def chunk(self, index: int, data: bytes) -> Chunk:
        """The message for a chunk whose bytes the caller has read."""
        if len(data) != chunk_size(self.head.size, index):
            raise ValueError(f"chunk {index} has {chunk_size(self.head.size, index)} bytes, not {len(data)}")
        digest = self.head.digest if self.count == 1 else sha256(data).digest()
        return Chunk(self.head.blob, index, digest, data)

    def acked(self, ack: ChunkAck) -> None:
        """Note an acknowledgement; one that came before is nothing. Raises MalformedMessage for what was never sent."""
        if ack.blob != self.head.blob:
            raise MalformedMessage("an acknowledgement of another blob")
        if ack.index in self._under_way:
            self._under_way.discard(ack.index)
            self._there.add(ack.index)
        elif ack.index not in self._there:
            raise MalformedMessage("an acknowledgement of a chunk that was not sent")


class Incoming:
    """Knows which chunks are written. Nothing is allocated for a size above ``cap``.

    ``write(offset, data)`` puts bytes where they belong; it is called once for each chunk.
    """

    def __init__(self, head: BlobHead, write: Callable[[int, bytes], None], *, cap: int = MAX_BLOB) -> None:
        """Raises Refused TOO_LARGE when the head announces more than ``cap`` bytes."""
        if head.size > cap:
            raise Refused("TOO_LARGE", "a blob above the limit", have=cap, need=head.size)
        self.head, self._write = head, write
        self._written: set[int] = set()
        self._whole, self._in_order = sha256(), 0  # over the chunks that came in their order, and how many did
        self._only = b""  # the digest of a blob of one chunk

    @property
    def count(self) -> int:
        return chunk_count(self.head.size)

    @property
    def complete(self) -> bool:
        """Whether every chunk is written. The digest of the whole is still to be compared."""
        return len(self._written) == self.count

    def already(self, index: int, data: bytes) -> None:
        """Note a chunk that is in the sink from before, as after a lost connection; its bytes are the caller's own."""
        if len(data) == chunk_size(self.head.size, index):
            self._written.add(index)

    def have(self) -> BlobHave:
        return BlobHave(self.head.blob, to_bitmap(self._written))

    def missing(self) -> list[int]:
        return [index for index in range(self.count) if index not in self._written]

    def take(self, chunk: Chunk) -> ChunkAck:
        """Check and write a chunk; the acknowledgement to send. A repeat is acknowledged and not written again.

        Raises MalformedMessage for a chunk of another blob, place, length or digest.
        """
        if chunk.blob != self.head.blob or chunk.index >= self.count:
            raise MalformedMessage("a chunk of another blob")
        if len(chunk.data) != chunk_size(self.head.size, chunk.index):
            raise MalformedMessage("a chunk of another length")
        if chunk.index not in self._written:
            if sha256(chunk.data).digest() != chunk.digest:
                raise MalformedMessage("a chunk with another digest")
            self._write(chunk.index * CHUNK, chunk.data)
            self._written.add(chunk.index)
            self._add_up(chunk)
        return ChunkAck(self.head.blob, chunk.index)

    def _add_up(self, chunk: Chunk) -> None:
        if chunk.index != self._in_order:
            return
        self._in_order += 1
        if self.count == 1:
            self._only = chunk.digest
        else:
            self._whole.update(chunk.data)

    @property
    def digest(self) -> bytes | None:
        """The digest of the whole, when every chunk came in its order; otherwise it has to be read again for it."""
        if self._in_order != self.count:
            return None
        return self._only or self._whole.digest()

    def check(self, digest: bytes) -> None:
        """Compare the digest of what was written with the head's. Raises MalformedMessage."""
        if not self.complete or digest != self.head.digest:
            raise MalformedMessage("the blob has another digest")
