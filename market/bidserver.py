"""BidServer: the gateway's end of ``/pasar/bid/1``. One stream is one client asking, bidding, or coming back.

It reads what the client says, tells it what happens to its job, and hands the result over in chunks. The job itself is
a JobRun and goes on without this stream. Knows no auction and no seller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
import trio

from ledger.money import Settlement
from market.bid import Bid
from market.bidwire import (
    MAX_MODELS_LISTED,
    AskModels,
    BidTaken,
    CancelBid,
    JobDone,
    ModelOnOffer,
    ModelsOnOffer,
    News,
    SendInputs,
    Thanks,
)
from market.bookfeed import BookFeed
from market.conversation import closing
from market.hello import Greeter
from market.jobrun import JobRun
from market.jobwire import BlobRef
from market.parcels import Parcels
from market.refusal import Refusal
from p2p.blobs import Chunk, ChunkAck
from p2p.errors import MalformedMessage, PasarError, Refused, Unavailable
from p2p.peer import peer_text
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Stream

log = structlog.get_logger(__name__)

FIRST_BID_S = 60.0
HAND_OVER_S = 120.0  # from the outcome, or from the last chunk that was acknowledged
LISTED_PER_SECOND = 100_000  # offers looked at for clients that ask what there is; an answer serves that long

GATHER_S = 0.05
URGENT = (News.AWARDED, News.RETRIED)

Take = Callable[[Stream, Bid], Awaitable[JobRun | Refusal]]
Cancel = Callable[[JobRun], Awaitable[None]]


async def _gather(run: JobRun, heard: int) -> None:
    """Let what nobody waits for leave together with what follows it soon."""
    with trio.move_on_after(GATHER_S):
        while not run.over.is_set() and all(news.event not in URGENT for news in run.bulletin.since(heard)[0]):
            await run.bulletin.changed()


class BidServer:
    """Answers questions about models until a bid comes; then follows that bid."""

    def __init__(self, greeter: Greeter, feed: BookFeed, settlement: Settlement, take: Take, cancel: Cancel) -> None:
        self._greeter, self._feed, self._settlement = greeter, feed, settlement
        self._take, self._cancel = take, cancel
        self._listed: dict[str, tuple[float, ModelsOnOffer]] = {}
        self._following = 0
        self._idle = trio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no client is following a bid."""
        await self._idle.wait()

    async def accept(self, raw: Stream) -> None:
        """Serve one stream. Raises PeerFault for a client that breaks the rules."""
        stream = MessageStream(raw, JOB_FRAME)
        try:
            await self._greeter.greet(stream)
            while (said := await stream.receive(timeout=FIRST_BID_S)) is not None:
                if isinstance(said, AskModels):
                    await stream.send(self._models(said.pipeline))
                elif isinstance(said, Bid):
                    with self._counted():
                        await self._follow(raw, stream, said)
                    break
                else:
                    raise MalformedMessage(f"{type(said).__name__} where a bid belongs")
        except (Refused, Unavailable) as exc:
            log.debug("bid stream ended", peer=peer_text(raw.peer), reason=str(exc))
        finally:
            await closing(stream)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if not self._following:
            self._idle = trio.Event()
        self._following += 1
        try:
            yield
        finally:
            self._following -= 1
            if not self._following:
                self._idle.set()

    async def _follow(self, raw: Stream, stream: MessageStream, bid: Bid) -> None:
        run = await self._take(raw, bid)
        if isinstance(run, Refusal):
            await stream.send(run)
            return
        if isinstance(run.outcome, Refusal):
            await stream.send(run.outcome)
            return
        parcels = Parcels()
        broken: list[PasarError] = []

        async def listen() -> None:
            try:
                await self._listen(stream, run, parcels)
            except PasarError as exc:
                broken.append(exc)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(self._hurry, run, parcels, nursery.cancel_scope)
            try:
                await self._tell(stream, run, parcels)
                await trio.sleep_forever()  # until the client says thanks, or leaves
            except PasarError as exc:
                broken.append(exc)
            nursery.cancel_scope.cancel()
        if broken:
            raise broken.pop()  # kept here, it would hold this call and all that it knows

    async def _hurry(self, run: JobRun, parcels: Parcels, stream: trio.CancelScope) -> None:
        """End a stream on which a result is not taken; the result stays for a client that comes back."""
        await run.over.wait()
        moved = -1
        while parcels.acks > moved:
            moved = parcels.acks
            await trio.sleep(HAND_OVER_S)
        stream.cancel()

    async def _listen(self, stream: MessageStream, run: JobRun, parcels: Parcels) -> None:
        while (said := await stream.receive()) is not None:
            if isinstance(said, ChunkAck):
                parcels.acked(said)
            elif isinstance(said, Chunk):
                await stream.send(await run.inputs.take(said))
            elif isinstance(said, CancelBid) and said.job_id == run.job_id:
                await self._cancel(run)
            elif isinstance(said, Thanks):
                return
            else:
                raise MalformedMessage(f"{type(said).__name__} on a bid stream")

    async def _tell(self, stream: MessageStream, run: JobRun, parcels: Parcels) -> None:
        """News as they come, then the outcome, then its files."""
        news = run.bulletin
        fresh, heard = news.since(0)  # at once: a client that has not heard it goes to another gateway when we die
        await stream.send(BidTaken(run.job_id, run.job.limit, not run.bid.limit, run.bid.deadline_ms), *fresh)
        if not run.inputs.whole.is_set():
            await stream.send(SendInputs(run.job_id, run.inputs.have()))
        seen = 0
        while not run.over.is_set() or heard < news.told:
            while not run.over.is_set() and (news.told, news.shown) == (heard, seen):
                await news.changed()
            await _gather(run, heard)
            (fresh, heard), (previews, seen) = news.since(heard), news.seen_since(seen)
            if fresh or previews:
                await stream.send(*fresh, *previews)
        await stream.send(run.outcome)
        if isinstance(run.outcome, JobDone):
            for index, head in enumerate(run.outcome.artifacts):
                ref = BlobRef(head.digest, head.size)
                parcels.offer(ref, run.piece_of(index))
                await parcels.send(stream, ref.blob)

    def _models(self, pipeline: str) -> ModelsOnOffer:
        """What is on offer, as it was when the last look at the whole book has been paid for by time."""
        until, answer = self._listed.get(pipeline, (0.0, ModelsOnOffer(pipeline, ())))
        if pipeline in self._feed.pipelines and trio.current_time() >= until:
            answer = self._look(pipeline)
            self._listed[pipeline] = trio.current_time() + len(self._feed.book) / LISTED_PER_SECOND, answer
        return answer

    def _look(self, pipeline: str) -> ModelsOnOffer:
        found: dict[bytes, ModelOnOffer] = {}
        for posting in self._feed.book.postings():
            offer = posting.offer
            if offer.pipeline != pipeline or offer.settlement != self._settlement:
                continue
            for entry in offer.models:
                known = found.get(entry.model)
                found[entry.model] = ModelOnOffer(
                    entry.name,
                    entry.model,
                    entry.native_side,
                    max(entry.max_side, known.max_side if known else 0),
                    max(entry.max_steps, known.max_steps if known else 0),
                    1 + (known.offers if known else 0),
                    entry.warm + (known.warm if known else 0),
                    min(offer.price, known.cheapest) if known else offer.price,
                )
        ranked = sorted(found.values(), key=lambda model: (-model.offers, model.name, model.model))
        return ModelsOnOffer(pipeline, tuple(ranked[:MAX_MODELS_LISTED]))
