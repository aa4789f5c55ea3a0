"""Conversation: drives one session machine. Events in, commands out, on whatever stream the job has at the moment.

    machine.handle(event, now) -> commands -> perform(command), one after the other, in their order

Streams come and go: ``attach`` speaks on one until it ends, the newest one wins, and what the machine says without a
stream is dropped, as its law of resumption allows. Blobs share the stream and go through the job's parcels. Knows
neither side's business; ``perform`` does.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, cast, get_args

import structlog
import trio

from market.jobwire import (
    Award,
    BlobRef,
    Commitment,
    FromGateway,
    FromOrchestrator,
    JobMessage,
    Seal,
    SliceOutput,
    authenticate,
)
from market.parcels import Parcels
from market.session.commands import Command, SendBlob, SendMessage
from market.session.events import BlobReceived, BlobSent, Connected, Disconnected, Event, Ticked
from p2p.blobs import Chunk, ChunkAck
from p2p.codec import decode_as
from p2p.errors import MalformedMessage, PasarError, Unavailable
from p2p.peer import PeerId
from p2p.stream import MessageStream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

OUTBOX = 1024
FLUSH_S = 2.0
QUIET_S = 45.0  # a stream on which nothing is due any more is closed after so long
_NO_CHANGE_S = 0.05

Letter = JobMessage | SendBlob
Perform = Callable[[Command], Awaitable[None]]


class Session(Protocol):
    """What both machines of ``market/session`` are."""

    @property
    def wake_at(self) -> int | None: ...
    def handle(self, event: Event, now: int) -> list[Command]: ...


def now_ms() -> int:
    """The steady clock of every session of this process, in milliseconds."""
    return int(trio.current_time() * 1000)


class Conversation:
    """Handles one event at a time; all commands of one event are done before the next event is looked at."""

    def __init__(
        self,
        session: Session,
        seller: PeerId,
        parcels: Parcels,
        perform: Perform,
        *,
        buying: bool,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """``after`` is called when an event and all its commands are done."""
        self.session, self._after = session, after
        self._seller, self._parcels, self._perform = seller, parcels, perform
        self._heard: tuple[type, ...] = get_args(FromOrchestrator if buying else FromGateway)
        self._post, self._events = trio.open_memory_channel[Event](math.inf)
        self._stream: MessageStream | None = None
        self._outbox: trio.MemorySendChannel[Letter] | None = None
        self._stream_nursery: trio.Nursery | None = None
        self._over = trio.Event()
        self._detached = trio.Event()

    def post(self, event: Event) -> None:
        """Something happened; it is handled in its turn."""
        self._post.send_nowait(event)

    def finish(self) -> None:
        """End ``run`` after the commands of the present event; what was said still goes out."""
        self._over.set()

    @property
    def attached(self) -> bool:
        return self._stream is not None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Handle events until ``finish``."""
        task_status.started()
        try:
            while not self._over.is_set():
                event = await self._next()
                for command in self.session.handle(event, now_ms()):
                    await self._do(command)
                self._after()
            if self._outbox is not None:
                self._outbox.close()
                with trio.move_on_after(FLUSH_S):
                    await self._detached.wait()
        finally:
            if self._stream_nursery is not None:
                self._stream_nursery.cancel_scope.cancel()

    async def attach(
        self,
        stream: MessageStream,
        *,
        rtt_ms: int = 0,
        greet: Callable[[], Awaitable[object]] | None = None,
        opening: JobMessage | None = None,
    ) -> None:
        """Speak on ``stream`` until it ends or another takes its place.

        ``greet`` hears the other side's hello where that is still to come; ``opening`` is a message read already.
        Raises Unavailable when it broke, PeerFault when the other side broke a rule.
        """
        if self._stream_nursery is not None:
            self._stream_nursery.cancel_scope.cancel()
        self._stream, self._detached = stream, trio.Event()
        self._outbox, letters = trio.open_memory_channel[Letter](OUTBOX)
        self.post(Connected(self._parcels.haves(), rtt_ms))
        broken: list[PasarError] = []

        async def keep(part: Callable[[], Awaitable[None]]) -> None:
            try:
                await part()
            except PasarError as exc:
                broken.append(exc)
            nursery.cancel_scope.cancel()

        async def read() -> None:
            if greet is not None:
                await greet()
            if opening is not None:
                self._listen(opening)
            await self._read(stream)

        try:
            async with trio.open_nursery() as nursery:
                self._stream_nursery = nursery
                nursery.start_soon(keep, lambda: self._write(stream, letters))
                await keep(read)
        finally:
            if self._stream is stream:
                self._detached.set()
                self._stream = self._outbox = self._stream_nursery = None
                self.post(Disconnected())
        if broken:
            raise broken[0]

    async def _next(self) -> Event:
        wake_at = self.session.wake_at
        if wake_at is not None and wake_at <= now_ms():
            await trio.sleep(_NO_CHANGE_S)  # a tick that changed nothing must not turn into a spin
        with trio.move_on_at(math.inf if wake_at is None else wake_at / 1000):
            return await self._events.receive()
        return Ticked()

    async def _do(self, command: Command) -> None:
        if isinstance(command, SendMessage):
            self._put(command.message)
        elif isinstance(command, SendBlob):
            self._put(command)
        else:
            await self._perform(command)

    def _put(self, letter: Letter) -> None:
        """Queue it for the stream, in order: a blob never overtakes the message that announces it."""
        if self._outbox is None:
            return
        try:
            self._outbox.send_nowait(letter)
        except trio.WouldBlock:  # a peer that does not read what it asked for
            if self._stream_nursery is not None:
                self._stream_nursery.cancel_scope.cancel()

    async def _write(self, stream: MessageStream, letters: trio.MemoryReceiveChannel[Letter]) -> None:
        """Say what was queued; blobs go out beside it, so that a large one holds up no message."""
        async with trio.open_nursery() as nursery:
            async for letter in letters:
                if isinstance(letter, SendBlob):
                    nursery.start_soon(self._send_blob, stream, letter)
                else:
                    await stream.send(letter)

    async def _read(self, stream: MessageStream) -> None:
        while (said := await stream.receive(timeout=self._patience())) is not None:
            if isinstance(said, Chunk):
                ack, whole = self._parcels.take(said)
                await stream.send(ack)
                if whole:
                    self.post(BlobReceived(said.blob))
            elif isinstance(said, ChunkAck):
                self._parcels.acked(said)
            elif isinstance(said, self._heard):
                self._listen(cast(JobMessage, said))
            else:
                raise MalformedMessage(f"{type(said).__name__} on a job stream")

    def _listen(self, said: JobMessage) -> None:
        authenticate(said, self._seller)
        for ref in _named_blobs(said):  # before the machine has seen it: its bytes may be right behind
            if self._parcels.expect(ref):
                self.post(BlobReceived(ref.blob))
        self.post(said)

    async def _send_blob(self, stream: MessageStream, command: SendBlob) -> None:
        try:
            if await self._parcels.send(stream, command.blob, command.have):
                self.post(BlobSent(command.blob))
        except PasarError as exc:
            log.debug("blob not sent", reason=str(exc))
            if self._stream is stream and self._stream_nursery is not None:
                self._stream_nursery.cancel_scope.cancel()

    def _patience(self) -> float | None:
        """A session that waits for nothing is given up after a while; any other has deadlines of its own."""
        return QUIET_S if self.session.wake_at is None else None


def _named_blobs(said: JobMessage) -> tuple[BlobRef, ...]:
    """The blobs that a message announces. Its signatures were checked."""
    if isinstance(said, Award):
        return said.inputs
    if isinstance(said, SliceOutput):
        return (said.output,)
    if isinstance(said, Seal):
        return tuple(file.cipher for file in decode_as(Commitment, said.commitment.payload).artifacts)
    return ()


async def closing(stream: MessageStream) -> None:
    """Close a stream whose other end may be gone."""
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        try:
            await stream.aclose()
        except Unavailable:
            await stream.reset()
