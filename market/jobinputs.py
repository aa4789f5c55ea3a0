"""JobInputs: the files one job works on, at a node that needs them whole: taken in once, on disk, read from there.

A gateway takes them from its client and hands them to each seller it tries; a seller hands them to its worker. What is
whole and on disk survives a restart; what was half here is asked for again. Knows no stream and no session.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from compute.spec import JobSpec
from market.jobwire import BlobHave, BlobRef
from market.keeping import Keeping
from market.parcels import Parcels
from p2p.blobs import Chunk, ChunkAck
from p2p.errors import MalformedMessage, Unavailable


def refs_of(spec: JobSpec) -> tuple[BlobRef, ...]:
    """The inputs of a spec as they travel."""
    return tuple(BlobRef(file.digest, file.size) for file in spec.inputs)


class JobInputs:
    """``whole`` is set when every byte is here and on disk; at once for a job without inputs."""

    def __init__(self, keeping: Keeping, name: str, spec: JobSpec) -> None:
        self._keeping, self._name, self._spec = keeping, name, spec
        self.refs = refs_of(spec)
        self._parcels = Parcels()
        self._missing = {ref.blob for ref in self.refs}
        self._writing = trio.Lock()
        self.whole = trio.Event()
        if not self.refs:
            self.whole.set()

    async def restore(self) -> None:
        """Find what an earlier life of this process has kept."""
        if self.refs and await self._keeping.note(self._name, JobSpec) == self._spec:
            self._missing.clear()
            self.whole.set()

    async def arrive(self, deadline: float, cancelled: trio.Event) -> bool:
        """Wait until they are whole; False when ``deadline``, in seconds, or ``cancelled`` comes first."""
        if not self.whole.is_set():
            with trio.move_on_at(deadline):
                async with trio.open_nursery() as nursery:
                    for event in (self.whole, cancelled):
                        nursery.start_soon(_end_with, event, nursery.cancel_scope)
        return self.whole.is_set() and not cancelled.is_set()

    def have(self) -> tuple[BlobHave, ...]:
        """Which chunks are here, for a client that is asked for the rest."""
        return self._parcels.haves()

    async def take(self, chunk: Chunk) -> ChunkAck:
        """Write one chunk. Raises MalformedMessage for one that nobody waits for, or with the wrong bytes; Unavailable.

        The last one is acknowledged when all are on disk.
        """
        if self.whole.is_set() and chunk.blob in {ref.blob for ref in self.refs}:
            return ChunkAck(chunk.blob, chunk.index)  # said again on a stream that broke
        for ref in self.refs:
            if ref.blob == chunk.blob:
                self._parcels.expect(ref)
        ack, here = self._parcels.take(chunk)
        if here:
            self._missing.discard(chunk.blob)
            if not self._missing:
                await self._keep()
        return ack

    async def _keep(self) -> None:
        async with self._writing:
            if self.whole.is_set():
                return
            files = [data for ref in self.refs if (data := self._parcels.get(ref)) is not None]
            if len(files) != len(self.refs):
                raise MalformedMessage("an input is here in name only")
            await self._keeping.put(self._name, self._spec, files)
            self._parcels = Parcels()  # and the bytes it holds
            self.whole.set()

    async def give(self, files: Sequence[bytes]) -> None:
        """Have them all at once, from this node itself. Raises Unavailable when the disk does not take them."""
        await self._keeping.put(self._name, self._spec, files)
        self._missing.clear()
        self.whole.set()

    async def on_disk(self) -> list[bytes]:
        """All of them, as they lie here. Raises Unavailable when they do not."""
        if not self.refs:
            return []
        found = await self._keeping.get(self._name, JobSpec)
        if found is None:
            raise Unavailable("the inputs of this job are not here any more")
        return found[1]

    def offer_to(self, parcels: Parcels) -> None:
        """Have ``parcels`` send them, read from disk piece by piece."""
        for index, ref in enumerate(self.refs):
            parcels.offer(ref, partial(self._keeping.read, self._name, index))

    async def files(self, parcels: Parcels) -> tuple[bytes, ...]:
        """All of them, as ``parcels`` received them, and then on disk and no longer held there; or from disk.

        Raises Unavailable when they are not there any more, or the disk does not take them.
        """
        if not self.refs:
            return ()
        files = [data for ref in self.refs if (data := parcels.get(ref)) is not None]
        if len(files) == len(self.refs):
            await self._keeping.put(self._name, self._spec, files)
            for ref in self.refs:
                parcels.let_go(ref)
            return tuple(files)
        found = await self._keeping.get(self._name, JobSpec)
        if found is None or [len(data) for data in found[1]] != [ref.size for ref in self.refs]:
            raise Unavailable("the inputs of this job are not here any more")
        return tuple(found[1])

    async def drop(self) -> None:
        """Nobody needs them any more."""
        if self.refs:
            await self._keeping.drop(self._name)


async def _end_with(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
