"""ControlLines: the gateway's open control streams, one for each seller it asks, kept for the next question.

An RFQ goes out on the line and its answer comes back by the RFQ's digest, so many auctions share one line. A line that
breaks fails what waits on it and is opened anew by the next question; ``prepare`` opens one ahead of the first. A quote
that nobody waits for any more is let go of: the seller keeps a place for it.
Signatures are checked here; what a quote means is the auction's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import trio

from market.hello import Greeter
from market.protocol import CONTROL
from market.quote import RFQ, Quote, QuoteRefusal, Release
from p2p.codec import decode_as
from p2p.envelope import Signed, author_of
from p2p.errors import BadSignature, PasarError, PeerFault, Unavailable
from p2p.peer import PeerId, peer_text
from p2p.quicklock import QuickLock
from p2p.stream import MessageStream
from p2p.transport import Network

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

ANSWER_TIMEOUT_S = 5.0
MAX_LINES = 512
MAX_STRAYS = 64  # answers in a row that nobody waits for: late ones are lawful, a stream of them is not

Reach = Callable[[PeerId], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote and the envelope that proves it."""

    quote: Quote
    envelope: Signed


Answer = Quoted | QuoteRefusal


@dataclass(slots=True)
class _Waiting:
    """One question on its way, and its answer once there is one; None when the line broke first."""

    done: trio.Event = field(default_factory=trio.Event)
    answer: Answer | None = None


@dataclass(slots=True)
class _Line:
    stream: MessageStream
    waiting: dict[bytes, _Waiting] = field(default_factory=dict)
    strays: int = 0


class ControlLines:
    """At most one line per seller and ``MAX_LINES`` in all; the one unused for longest goes first."""

    def __init__(self, network: Network, greeter: Greeter, reach: Reach) -> None:
        self._network, self._greeter, self._reach = network, greeter, reach
        self._lines: dict[PeerId, _Line] = {}
        self._opening: dict[PeerId, QuickLock] = {}
        self._rtts: dict[PeerId, int] = {}
        self.answered: Callable[[PeerId], None] = lambda seller: None  # hears of every answer, also of one that is late
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the readers of all lines until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    @property
    def rtts(self) -> dict[PeerId, int]:
        """Smoothed milliseconds from question to answer, by seller."""
        return self._rtts

    def prepare(self, seller: PeerId) -> None:
        """Have a line open before the first question to this seller, while there is room. May come to nothing."""
        if self._nursery is not None and seller not in self._lines and len(self._lines) < MAX_LINES:
            self._nursery.start_soon(self._prepare, seller)

    async def ask(self, seller: PeerId, rfq: RFQ) -> Answer:
        """The seller's answer. Raises Unavailable when there is none in time, PeerFault for an answer that is none."""
        line = await self._line(seller)
        digest, asked_at = rfq.digest, trio.current_time()
        waiting = line.waiting[digest] = _Waiting()
        try:
            await self._say(seller, line, rfq)
            with trio.move_on_after(ANSWER_TIMEOUT_S):
                await waiting.done.wait()
        except trio.Cancelled:
            if isinstance(waiting.answer, Quoted):
                self.let_go(seller, digest)
            raise
        finally:
            line.waiting.pop(digest, None)
        if waiting.answer is None:
            raise Unavailable("no answer to the request for a quote")
        self._measure(seller, int((trio.current_time() - asked_at) * 1000))
        return waiting.answer

    def let_go(self, seller: PeerId, rfq: bytes) -> None:
        """``release``, by a task of this line's own: also of an auction that is being cancelled."""
        if self._nursery is not None:
            self._nursery.start_soon(self.release, seller, rfq)

    async def release(self, seller: PeerId, rfq: bytes) -> None:
        """Let go of a quote. Lost when the line is: the hold runs out by itself."""
        line = self._lines.get(seller)
        if line is not None:
            with suppress(Unavailable):
                await self._say(seller, line, Release(rfq))

    async def _say(self, seller: PeerId, line: _Line, said: RFQ | Release) -> None:
        """Say it whole. A line on which that was cut short says nothing more, and makes room for another."""
        try:
            await line.stream.send(said)
        except BaseException:  # also of an auction that was over before its question was out
            self._drop(seller, line)
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await line.stream.reset()
            raise

    async def _prepare(self, seller: PeerId) -> None:
        try:
            await self._line(seller)
        except PasarError as exc:
            log.debug("no control line prepared", seller=peer_text(seller), reason=str(exc))

    async def _line(self, seller: PeerId) -> _Line:
        lock = self._opening.setdefault(seller, QuickLock())
        try:
            async with lock:
                line = self._lines.pop(seller, None)
                if line is None:
                    line = await self._open(seller)
                self._lines[seller] = line  # last in the order of use
        finally:  # most of those who are offered by a liar are never reached
            if lock.free:
                self._opening.pop(seller, None)
        while len(self._lines) > MAX_LINES:
            oldest = next(iter(self._lines))
            self._drop(oldest, self._lines[oldest])
        return line

    async def _open(self, seller: PeerId) -> _Line:
        await self._reach(seller)
        stream = MessageStream(await self._network.open(seller, CONTROL))
        await self._greeter.say(stream)
        line = _Line(stream)
        if self._nursery is None:
            raise Unavailable("the gateway is stopping")
        self._nursery.start_soon(self._read, seller, line)
        return line

    async def _read(self, seller: PeerId, line: _Line) -> None:
        """Hand answers to whoever waits, until the line ends; what still waits then has no answer."""
        try:
            await self._greeter.hear(line.stream)
            while (said := await line.stream.receive()) is not None:
                self._hand_over(seller, line, said)
        except PeerFault as fault:
            log.warning("control line closed", seller=peer_text(seller), code=fault.code)
        except PasarError as exc:
            log.debug("control line lost", seller=peer_text(seller), reason=str(exc))
        finally:
            self._drop(seller, line)
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await line.stream.reset()

    def _hand_over(self, seller: PeerId, line: _Line, said: object) -> None:
        quote: Quote | None = None
        if isinstance(said, QuoteRefusal):
            digest = said.rfq
        elif isinstance(said, Signed):
            quote = decode_as(Quote, said.payload)
            digest = quote.rfq  # its signature is worth checking when somebody waits for it
        else:
            raise PeerFault(f"{type(said).__name__} on a control line")
        self.answered(seller)
        waiting = line.waiting.get(digest)
        if waiting is None or waiting.answer is not None:
            line.strays += 1
            if line.strays > MAX_STRAYS:
                raise PeerFault("answers that nobody waits for")
            if quote is not None and quote.hold_ms and waiting is None:
                self.let_go(seller, digest)
            return
        line.strays = 0
        if isinstance(said, QuoteRefusal):
            waiting.answer = said
        elif quote is not None:
            if author_of(said, Quote) != seller:
                raise BadSignature("Quote signed by somebody else")
            waiting.answer = Quoted(quote, said)
        waiting.done.set()

    def _drop(self, seller: PeerId, line: _Line) -> None:
        if self._lines.get(seller) is line:
            del self._lines[seller]
        for waiting in line.waiting.values():
            waiting.done.set()

    def _measure(self, seller: PeerId, took_ms: int) -> None:
        known = self._rtts.pop(seller, took_ms)
        self._rtts[seller] = known + (took_ms - known) // 4
        if len(self._rtts) > 4 * MAX_LINES:
            del self._rtts[next(iter(self._rtts))]
