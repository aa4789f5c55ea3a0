"""Send and receive one blob over a message stream of its own; from memory or from disk, piece by piece.

The pure machines of ``p2p/blobs.py`` decide, this reads, writes and waits. Disk work runs in threads; the reader of
acknowledgements never waits for the writer of chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import trio

from p2p.blobs import CHUNK, MAX_BLOB, BlobHave, BlobHead, Chunk, ChunkAck, Incoming, Outgoing, chunk_size
from p2p.errors import MalformedMessage, PasarError, Unavailable
from p2p.stream import MessageStream

IDLE = 45.0  # seconds without a chunk or an acknowledgement
T = TypeVar("T")
_disk = trio.CapacityLimiter(4)


async def head_of(blob: bytes, data: bytes | Path, digest: bytes | None = None) -> BlobHead:
    """The head of what is to be sent; a file is read whole for it, unless its digest is known."""
    if isinstance(data, bytes):
        return BlobHead(blob, len(data), digest or sha256(data).digest())

    def read(path: Path) -> BlobHead:
        with path.open("rb") as file:
            return BlobHead(blob, path.stat().st_size, digest or _digest(file))

    return await trio.to_thread.run_sync(read, data, limiter=_disk)


async def send_blob(stream: MessageStream, blob: bytes, data: bytes | Path, *, digest: bytes | None = None) -> BlobHead:
    """Send ``data``, whose ``digest`` the caller may know, and return when the other side has acknowledged all of it.

    Raises Unavailable when the stream breaks or stays idle, MalformedMessage when the other side talks nonsense.
    """
    head = await head_of(blob, data, digest)
    await stream.send(head)
    have = await stream.receive(IDLE)
    if not isinstance(have, BlobHave) or have.blob != blob:
        raise _unexpected(have)
    outgoing = Outgoing(head, have=have.bitmap)
    room = trio.Event()

    async def read_acks() -> None:
        nonlocal room
        while not outgoing.done:
            ack = await stream.receive(IDLE)
            if not isinstance(ack, ChunkAck):
                raise _unexpected(ack)
            outgoing.acked(ack)
            room.set()

    async def make(to: trio.MemorySendChannel[Chunk]) -> None:
        """Read and digest the next chunk while the one before leaves."""
        nonlocal room
        async with to:
            while outgoing.waiting:
                room = trio.Event()
                while (index := outgoing.next_index()) is not None:
                    piece = await _read(data, head.size, index)
                    await to.send(await _in_thread(outgoing.count, outgoing.chunk, index, piece))
                if outgoing.waiting:
                    await room.wait()

    with _single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_acks)
            to, made = trio.open_memory_channel[Chunk](1)
            nursery.start_soon(make, to)
            async for chunk in made:
                await stream.send(chunk)
    return head


async def receive_blob(stream: MessageStream, sink: Path, *, cap: int = MAX_BLOB) -> BlobHead:
    """Receive one blob into the file ``sink``, which is complete and checked when this returns.

    Raises Refused for one above ``cap`` before anything is written, MalformedMessage, Unavailable.
    """
    head = await _head(stream)
    with sink.open("w+b") as file:
        incoming = Incoming(head, lambda offset, data: _write(file, offset, data), cap=cap)
        await _take_all(stream, incoming)
        again = incoming.digest is None  # chunks in another order: it has to be read once more
        digest = await trio.to_thread.run_sync(_digest, file, limiter=_disk) if again else incoming.digest
        incoming.check(digest or b"")
    return head


async def receive_bytes(stream: MessageStream, *, cap: int) -> bytes:
    """Receive one blob of at most ``cap`` bytes into memory. Raises like ``receive_blob``."""
    head = await _head(stream)
    parts: dict[int, bytes] = {}
    incoming = Incoming(head, parts.__setitem__, cap=cap)
    await _take_all(stream, incoming)
    whole = b"".join(parts[offset] for offset in sorted(parts))
    incoming.check(incoming.digest or sha256(whole).digest())
    return whole


async def _head(stream: MessageStream) -> BlobHead:
    head = await stream.receive(IDLE)
    if not isinstance(head, BlobHead):
        raise _unexpected(head)
    return head


async def _take_all(stream: MessageStream, incoming: Incoming) -> None:
    """Say what is here and take the rest: the next chunk comes while the one before is digested, written and told."""
    await stream.send(incoming.have())

    async def take(came: trio.MemoryReceiveChannel[Chunk]) -> None:
        async for chunk in came:
            await stream.send(await _in_thread(incoming.count, incoming.take, chunk))

    with _single_error():
        async with trio.open_nursery() as nursery:
            to, came = trio.open_memory_channel[Chunk](1)
            nursery.start_soon(take, came)
            async with to:
                wanted = set(incoming.missing())
                while wanted:
                    chunk = await stream.receive(IDLE)
                    if not isinstance(chunk, Chunk):
                        raise _unexpected(chunk)
                    wanted.discard(chunk.index)
                    await to.send(chunk)


async def _in_thread(chunks: int, work: Callable[..., T], *args: Any) -> T:
    """Do what takes a while beside the loop; but for a blob of one chunk there is nothing to do meanwhile."""
    if chunks == 1:
        return work(*args)
    return await trio.to_thread.run_sync(work, *args, limiter=_disk)


async def _read(data: bytes | Path, size: int, index: int) -> bytes:
    length = chunk_size(size, index)
    if isinstance(data, bytes):
        return data[index * CHUNK : index * CHUNK + length]

    def read(path: Path) -> bytes:
        with path.open("rb") as file:
            file.seek(index * CHUNK)
            return file.read(length)

    piece = await trio.to_thread.run_sync(read, data, limiter=_disk)
    if len(piece) != length:
        raise Unavailable("the file became shorter while it was sent")
    return piece


def _write(file: BinaryIO, offset: int, data: bytes) -> None:
    file.seek(offset)
    file.write(data)


def _digest(file: BinaryIO) -> bytes:
    file.flush()
    file.seek(0)
    digest = sha256()
    while piece := file.read(CHUNK):
        digest.update(piece)
    return digest.digest()


@contextmanager
def _single_error() -> Generator[None]:
    """Raise the one error of ours out of a nursery as itself; anything else stays a group."""
    try:
        yield
    except ExceptionGroup as group:
        ours, other = group.split(PasarError)
        if ours is None or other is not None:
            raise
        error: BaseException = ours
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def _unexpected(message: object) -> Exception:
    if message is None:
        return Unavailable("the stream ended before the blob")
    return MalformedMessage(f"{type(message).__name__} in the middle of a blob")
