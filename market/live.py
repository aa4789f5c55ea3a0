"""Live: a stream of segments through the market, each a job of its own, its renditions and playlists in a folder.

    Source -> Reel -> bids, a few at a time -> files -> playlists

A segment is bid for like any job and paid alone, so that no seller is needed twice; ``market/reel.py`` keeps the order.
Shell. Files are written under another name and renamed, so that a player never reads half of one.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import structlog
import trio

from compute.filmcutting import SourceSegment
from compute.filmprobe import FILMS
from compute.profiles import Form, Order, blocks_of, canvas_of
from compute.renditions import MASTER
from compute.spec import TRANSCODE, Input, Option
from market.bidwire import JobFailed, ModelOnOffer
from market.client import Client, Delivered, Ending, GatewayLost, Wish, bid_for, choose_model
from market.livesource import Source
from market.reel import Piece, Reel, Told
from market.refusal import Refusal
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.peer import PeerId

log = structlog.get_logger("live")


@dataclass(frozen=True, slots=True)
class Stream:
    """What one ``live`` is told. ``wish`` has limit, deadline and model of each segment's bid."""

    order: Order
    wish: Wish
    out: Path
    receipts: Path
    window: int
    in_flight: int


class Live:
    """One stream. ``refusal`` is why the last segment that was lost was not done."""

    def __init__(
        self, stream: Stream, client: Client, gateways: list[PeerId], tell: Callable[[Piece, Told], None]
    ) -> None:
        """``tell`` hears of every piece that is listed."""
        self._stream, self._client, self._gateways, self._tell = stream, client, gateways, tell
        self.reel = Reel(stream.order.ladder, stream.window)
        self.price = 0
        self.refusal = ""
        self._models: dict[PeerId, ModelOnOffer] = {}
        self._places = trio.Semaphore(stream.in_flight)
        self._writing = trio.Lock()

    async def run(self, source: Source) -> None:
        """Until the source ends, or a first Ctrl-C: what is under way is finished then, after a second it is not."""
        reading = trio.CancelScope()
        async with trio.open_nursery() as outer:
            outer.start_soon(_listen, reading, outer.cancel_scope)
            async with trio.open_nursery() as work:
                with reading:
                    await self._read(source, work)
            self.reel.end()
            await self._publish(())
            outer.cancel_scope.cancel()

    async def _read(self, source: Source, work: trio.Nursery) -> None:
        """Take the next segment when one less is under way: so no more of them are held than that."""
        while True:
            await self._places.acquire()
            ready = await source.next()
            if ready is None:
                return
            segment, piece = ready.segment, None
            if segment is None:
                self.reel.lose()
            else:
                piece = self.reel.cut(segment.length, (segment.width, segment.height), ready.since)
            if segment is None or piece is None:
                log.warning("a segment is lost: it cannot be read, or is longer than the first allows")
                self._places.release()
            else:
                work.start_soon(self._one, piece, segment)

    async def _one(self, piece: Piece, segment: SourceSegment) -> None:
        """One segment, from its bid to its place in the playlists."""
        ending = await self._bid(self._wish(piece, segment), segment.data)
        if isinstance(ending, Delivered):
            names = [one.name for one in self._stream.order.ladder.renditions]
            paths = [self._stream.out / piece.file(name) for name in names]
            receipt = self._stream.receipts / f"{ending.done.job_id.hex()}.receipt"
            await trio.to_thread.run_sync(write, [*paths, receipt], [*ending.files, ending.done.receipt], ())
            self.price += ending.done.price
            sizes = {name: len(data) for name, data in zip(names, ending.files, strict=True)}
            listed = self.reel.came(piece.number, sizes, trio.current_time())
        else:
            log.warning("a segment is lost", number=piece.number, reason=self.refusal)
            listed = self.reel.failed(piece.number, trio.current_time())
        self._places.release()
        await self._publish(listed)

    def _wish(self, piece: Piece, segment: SourceSegment) -> Wish:
        width, height = canvas_of(blocks_of(self._stream.order.ladder, segment.width, segment.height))
        file = Input(FILMS[segment.suffix], len(segment.data), sha256(segment.data).digest())
        given = {one.name: one.value for one in self._stream.wish.options}
        given |= {"form": Form.SEGMENT.value, "start": str(piece.start)}
        return replace(
            self._stream.wish,
            width=width,
            height=height,
            length=segment.frames,
            inputs=(file,),
            options=tuple(Option(name, value) for name, value in sorted(given.items())),
        )

    async def _bid(self, wish: Wish, data: bytes) -> Delivered | None:
        """At the gateway that answered last, else at the others in turn."""
        for gateway in tuple(self._gateways):
            try:
                ending = await self._at(gateway, wish, data)
            except GatewayLost as exc:  # it may still charge: nobody else is asked for the same
                self.refusal = str(exc)
                self._gateways = [*(one for one in self._gateways if one != gateway), gateway]
                return None
            except (Unavailable, Refused, PeerFault) as exc:
                self.refusal = str(exc)
                self._gateways = [*(one for one in self._gateways if one != gateway), gateway]
                continue
            if isinstance(ending, Delivered) and len(ending.files) == len(self._stream.order.names):
                return ending
            self.refusal = _why(ending)
            self._models.pop(gateway, None)  # what is on offer may have changed
            if not isinstance(ending, Refusal):
                return None
        return None

    async def _at(self, gateway: PeerId, wish: Wish, data: bytes) -> Ending:
        if gateway not in self._models:
            chosen = choose_model(await self._client.models(gateway, TRANSCODE), wish)
            if isinstance(chosen, Refusal):
                return chosen
            self._models[gateway] = chosen
        bid = bid_for(wish, self._models[gateway], TRANSCODE, secrets.token_bytes)
        return await self._client.bid(gateway, bid, lambda news: None, files=(data,))

    async def _publish(self, listed: Sequence[Piece]) -> None:
        """Write the playlists as they are now, and take away what nobody asks for any more."""
        async with self._writing:
            lists = self.reel.playlists()
            texts = {f"{name}.m3u8": text for name, text in lists.items()}
            if texts:
                texts[MASTER] = self.reel.master()
            paths, files = [self._stream.out / name for name in texts], [text.encode() for text in texts.values()]
            gone = [self._stream.out / name for name in self.reel.forget()]
            await trio.to_thread.run_sync(write, paths, files, gone)
        for piece in listed:
            self._tell(piece, self.reel.told())


async def _listen(reading: trio.CancelScope, everything: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            (everything if reading.cancel_called else reading).cancel()


def _why(ending: Ending) -> str:
    match ending:
        case Refusal() | JobFailed():
            return f"{ending.code}: {ending.hint}"
        case Delivered():
            return "the result has other files than were asked for"
        case _:
            return "CANCELLED"


def write(paths: Sequence[Path], files: Sequence[bytes], gone: Sequence[Path]) -> None:
    """Each under another name first, so that nobody reads half of it; what is ``gone`` last. Raises Unavailable."""
    try:
        for path, data in zip(paths, files, strict=True):
            fresh = path.with_name(f".{path.name}.part")
            fresh.write_bytes(data)
            os.replace(fresh, path)
        for path in gone:
            path.unlink(missing_ok=True)
    except OSError as exc:
        raise Unavailable(f"cannot write {exc.filename}: {exc.strerror}") from exc
