"""Send and receive one blob over a message stream of its own; from memory or from disk, piece by piece.

The pure machines of ``p2p/blobs.py`` decide, this reads, writes and waits. Disk work runs in threads; the reader of
acknowledgements never waits for the writer of chunks.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import trio

from p2p.blobs import CHUNK, MAX_BLOB, BlobHave, BlobHead, Chunk, ChunkAck, Incoming, Outgoing, chunk_size
from p2p.errors import MalformedMessage, PasarError, Unavailable
from p2p.stream import MessageStream

IDLE = 45.0  # seconds without a chunk or an acknowledgement
_disk = trio.CapacityLimiter(4)


async def head_of(blob: bytes, data: bytes | Path) -> BlobHead:
    """The head of what is to be sent; a file is read whole for it."""
    if isinstance(data, bytes):
        return BlobHead(blob, len(data), sha256(data).digest())

    def read(path: Path) -> BlobHead:
        with path.open("rb") as file:
            return BlobHead(blob, path.stat().st_size, _digest(file))

    return await trio.to_thread.run_sync(read, data, limiter=_disk)


async def send_blob(stream: MessageStream, blob: bytes, data: bytes | Path) -> BlobHead:
    """Send ``data`` and return when the other side has acknowledged all of it.

    Raises Unavailable when the stream breaks or stays idle, MalformedMessage when the other side talks nonsense.
    """
    head = await head_of(blob, data)
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

    with _single_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_acks)
            while not outgoing.done:
                room = trio.Event()
                while (index := outgoing.next_index()) is not None:
                    await stream.send(outgoing.chunk(index, await _read(data, head.size, index)))
                if not outgoing.done:
                    await room.wait()
    return head


async def receive_blob(stream: MessageStream, sink: Path, *, cap: int = MAX_BLOB) -> BlobHead:
    """Receive one blob into the file ``sink``, which is complete and checked when this returns.

    Raises Refused for one above ``cap`` before anything is written, MalformedMessage, Unavailable.
    """
    head = await stream.receive(IDLE)
    if not isinstance(head, BlobHead):
        raise _unexpected(head)
    with sink.open("w+b") as file:
        incoming = Incoming(head, lambda offset, data: _write(file, offset, data), cap=cap)
        await stream.send(incoming.have())
        while not incoming.complete:
            chunk = await stream.receive(IDLE)
            if not isinstance(chunk, Chunk):
                raise _unexpected(chunk)
            await stream.send(await trio.to_thread.run_sync(incoming.take, chunk, limiter=_disk))
        incoming.check(await trio.to_thread.run_sync(_digest, file, limiter=_disk))
    return head


async def receive_bytes(stream: MessageStream, *, cap: int) -> bytes:
    """Receive one blob of at most ``cap`` bytes into memory. Raises like ``receive_blob``."""
    head = await stream.receive(IDLE)
    if not isinstance(head, BlobHead):
        raise _unexpected(head)
    parts: dict[int, bytes] = {}
    incoming = Incoming(head, parts.__setitem__, cap=cap)
    await stream.send(incoming.have())
    while not incoming.complete:
        chunk = await stream.receive(IDLE)
        if not isinstance(chunk, Chunk):
            raise _unexpected(chunk)
        await stream.send(incoming.take(chunk))
    whole = b"".join(parts[offset] for offset in sorted(parts))
    incoming.check(sha256(whole).digest())
    return whole


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
