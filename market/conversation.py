"""Conversation: drives one session machine. Events in, commands out, on whatever stream the job has at the moment.

    machine.handle(event, now) -> commands -> perform(command), one after the other, in their order

Streams come and go: ``attach`` speaks on one until it ends, the newest one wins, and what the machine says without a
stream is dropped, as its law of resumption allows. Blobs share the stream and go through the job's parcels. Knows
neither side's business; ``perform`` does.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast, get_args

import structlog
import trio

from ledger.journal import Begun
from market.jobwire import (
    Acceptance,
    Award,
    BlobRef,
    Commitment,
    Delivery,
    FromGateway,
    FromOrchestrator,
    JobMessage,
    Progress,
    Seal,
    SliceOutput,
    Tickets,
    authenticate,
)
from market.parcels import Parcels
from market.session.commands import (
    Command,
    CreditPayment,
    Debit,
    Journal,
    OfferParams,
    Pay,
    SendBlob,
    SendMessage,
    SettlePayment,
)
from market.session.events import BlobReceived, BlobSent, Connected, Disconnected, Event, Ticked
from p2p.admission import RateLimit
from p2p.blobs import Chunk, ChunkAck
from p2p.codec import decode_as
from p2p.errors import MalformedMessage, PasarError, Unavailable, UnknownMessage
from p2p.peer import PeerId
from p2p.stream import MessageStream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

OUTBOX = 1024
WAITING = 16  # messages that were read and not dealt with; then the stream is read no further
PER_SECOND, BURST = 200.0, 2048.0  # frames that one conversation takes; a job of a thousand steps passes in one burst
PROGRESS_PER_SECOND, PROGRESS_BURST = 20.0, 64.0  # steps that are told; of more in a short time some are left out
FLUSH_S = 2.0
QUIET_S = 45.0  # a stream on which nothing is due any more is closed after so long
_NO_CHANGE_S = 0.05
AWARD_SENT, SEALED, TICKETS_SENT, KEY_SENT = "award-sent", "sealed", "tickets-sent", "key-sent"

Letter = JobMessage | SendBlob
Perform = Callable[[Command], Awaitable[None]]
Keep = Callable[[bytes], Awaitable[Begun[None]]]
# What these do is a write to the same journal, so that it is on disk no earlier than the record that was handed in.
IN_ORDER = (Pay, SettlePayment, CreditPayment, OfferParams, Debit)


class Session(Protocol):
    """What both machines of ``market/session`` are."""

    @property
    def award(self) -> Award: ...
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
        keep: Keep,
        *,
        buying: bool,
        known: Callable[[Event], None] = lambda event: None,
        after: Callable[[], None] = lambda: None,
        reached: Callable[[str], None] = lambda point: None,
    ) -> None:
        """``keep`` hands a record to the journal; nothing that could be seen is done before it is on disk.

        ``known`` is called with each event that the machine has taken in, before anything is done about it, and
        ``after`` when all its commands are done.

        ``reached`` is told the points that a restart must survive, on both sides under the same names: to the one who
        speaks when the message has left, to the one who hears when everything it led to at once is done.
        """
        self.session, self._known, self._after, self._reached = session, known, after, reached
        self._seller, self._parcels, self._perform, self._keep = seller, parcels, perform, keep
        self._kept: Begun[object] | None = None
        self._heard: tuple[type, ...] = get_args(FromOrchestrator if buying else FromGateway)
        # Unbounded for our own events, which are few; the other side's messages need one of ``_room`` each.
        self._post, self._events = trio.open_memory_channel[Event](math.inf)
        self._room = trio.Semaphore(WAITING)
        self._rate = RateLimit(PER_SECOND, BURST, 1)
        self._steps = RateLimit(PROGRESS_PER_SECOND, PROGRESS_BURST, 1)
        self._stream: MessageStream | None = None
        self._outbox: trio.MemorySendChannel[Letter] | None = None
        self._known_outbox: trio.MemorySendChannel[Letter] | None = None  # of the stream that the machine knows
        self._stream_nursery: trio.Nursery | None = None
        self._over = trio.Event()
        self._detached = trio.Event()

    def post(self, event: Event) -> None:
        """Something happened; it is handled in its turn."""
        self._post.send_nowait(event)

    def await_disk(self, begun: Begun[object]) -> None:
        """Nothing more that could be seen is done before ``begun``, the newest write, is on disk."""
        self._kept = begun

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
                if isinstance(event, Connected):
                    self._known_outbox = self._outbox
                commands = self.session.handle(event, now_ms())
                self._known(event)
                for command in commands:
                    await self._do(command)
                self._after()
                self._mark(event)
                if isinstance(event, self._heard):
                    self._room.release()
            await self._settled()
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
        if self._over.is_set():
            raise Unavailable("this conversation is over")
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
                await self._listen(opening)
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
            raise broken.pop()

    async def _next(self) -> Event:
        wake_at = self.session.wake_at
        with suppress(trio.WouldBlock):  # what happened before a deadline passed is dealt with before it
            return self._events.receive_nowait()
        if wake_at is not None and wake_at <= now_ms():
            await trio.sleep(_NO_CHANGE_S)  # a tick that changed nothing must not turn into a spin
        if wake_at is None:
            return await self._events.receive()
        with trio.move_on_at(wake_at / 1000):
            return await self._events.receive()
        return Ticked()

    async def _settled(self) -> None:
        """Wait until the newest write of this conversation is on disk, and with it all before."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.wait()

    async def _do(self, command: Command) -> None:
        if isinstance(command, Journal):
            self._kept = await self._keep(command.record)
            return
        if not isinstance(command, IN_ORDER):
            await self._settled()
        if isinstance(command, SendMessage):
            if isinstance(command.message, Acceptance):
                self._expect_inputs()
            if not isinstance(command.message, Progress) or self._worth_telling(command.message):
                self._put(command.message)
            if command.ahead:
                await self._let_out()
        elif isinstance(command, SendBlob):
            self._put(command)
        else:
            await self._perform(command)

    def _worth_telling(self, said: Progress) -> bool:
        """A thousand steps in a second would keep the seal behind them from a gateway that is busy."""
        return said.step == said.steps or self._steps.allow("", trio.current_time())

    def _put(self, letter: Letter) -> None:
        """Queue it for the stream, in order: a blob never overtakes the message that announces it.

        A stream that the machine has not been told of yet gets nothing: it says everything anew when it is.
        """
        if self._outbox is None or self._outbox is not self._known_outbox:
            return
        try:
            self._outbox.send_nowait(letter)
        except trio.WouldBlock:  # a peer that does not read what it asked for
            if self._stream_nursery is not None:
                self._stream_nursery.cancel_scope.cancel()

    async def _let_out(self) -> None:
        """What was queued is on its way before anything else is worked on: in two turns whoever writes has had one."""
        for _ in range(2):
            await trio.lowlevel.checkpoint()

    async def _write(self, stream: MessageStream, letters: trio.MemoryReceiveChannel[Letter]) -> None:
        """Say what was queued; blobs go out beside it, so that a large one holds up no message."""
        broken: PasarError | None = None
        async with trio.open_nursery() as nursery:
            try:
                async for letter in letters:
                    if isinstance(letter, SendBlob):
                        nursery.start_soon(self._send_blob, stream, letter)
                    else:
                        await stream.send(letter)
                        self._mark(letter)
            except PasarError as exc:  # out of the nursery as itself, not in a group
                broken = exc
                nursery.cancel_scope.cancel()
        if broken is not None:
            raise broken

    async def _read(self, stream: MessageStream) -> None:
        while (said := await stream.receive(timeout=self._patience())) is not None:
            if not self._rate.allow("", trio.current_time()):
                await trio.sleep(1 / PER_SECOND)  # a flood is read slowly, and waits in its sender's buffers
            if isinstance(said, Chunk):
                ack, whole = self._parcels.take(said)
                await stream.send(ack)
                if whole:
                    self.post(BlobReceived(said.blob))
            elif isinstance(said, ChunkAck):
                self._parcels.acked(said)
            elif isinstance(said, self._heard):
                await self._listen(cast(JobMessage, said))
            else:
                raise MalformedMessage(f"{type(said).__name__} on a job stream")

    async def _listen(self, said: JobMessage) -> None:
        try:
            authenticate(said, self._seller)
            named = _named_blobs(said)
        except UnknownMessage as exc:
            log.debug("passed over", reason=str(exc))
            return
        self._expect(named)  # before the machine has seen it: its bytes may be right behind
        try:
            self._room.acquire_nowait()  # no turn of the loop for it where there is room
        except trio.WouldBlock:
            await self._room.acquire()
        self.post(said)

    def _expect(self, named: tuple[BlobRef, ...]) -> None:
        for ref in named:
            if self._parcels.expect(ref):
                self.post(BlobReceived(ref.blob))

    def _expect_inputs(self) -> None:
        """Inputs are taken in once their award is: a refused one moves no bytes."""
        self._expect(self.session.award.inputs)

    async def _send_blob(self, stream: MessageStream, command: SendBlob) -> None:
        try:
            if await self._parcels.send(stream, command.blob, command.have):
                self.post(BlobSent(command.blob))
        except PasarError as exc:
            log.debug("blob not sent", reason=str(exc))
            if self._stream is stream and self._stream_nursery is not None:
                self._stream_nursery.cancel_scope.cancel()

    def _mark(self, what: Event | Letter) -> None:
        for point in _points(what):
            self._reached(point)

    def _patience(self) -> float | None:
        """A session that waits for nothing is given up after a while; any other has deadlines of its own."""
        return QUIET_S if self.session.wake_at is None else None


def _points(what: Event | Letter) -> tuple[str, ...]:
    """The points that are reached when this was sent, or was heard and dealt with."""
    match what:
        case Award():
            return (AWARD_SENT,)
        case Tickets():
            return (TICKETS_SENT,) if what.payment else ()
        case Seal():
            return (SEALED,) if what.key is None else (SEALED, KEY_SENT)
        case Delivery():
            return (KEY_SENT,)
    return ()


def _named_blobs(said: JobMessage) -> tuple[BlobRef, ...]:
    """The blobs that a message announces and that follow at once. Its signatures were checked."""
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
