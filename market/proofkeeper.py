"""ProofKeeper: what becomes of a seller that said two things: shut out here, kept as proof, shown to neighbours.

The book finds a pair and bars it; this shell takes it from there. A proof is kept on disk, one for each seller and at
most ``MAX_PROOFS``, and counts again after a restart. On ``/pasar/proof/1`` a neighbour is shown the pair and believes
nothing but its two signatures. What was shown is not passed on: whoever finds a pair itself shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from market.book import OrderBook
from market.equivocation import MAX_PROOFS, Equivocation, KeptProof, KeptProofs, culprit, which_goes
from market.hello import Greeter
from market.protocol import PROOF
from p2p.admission import RateLimit
from p2p.codec import decode_as, encode
from p2p.errors import PasarError, PeerFault, Refused, Unavailable, UnknownMessage
from p2p.peer import PeerId, peer_text
from p2p.scores import Fault
from p2p.stream import MessageStream
from p2p.transport import Network, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

LOOK_S = 1.0
SHOWN_TO = 8  # neighbours
SHOWN_PER_SECOND, SHOWN_BURST = 1.0, 16.0  # proofs that one neighbour may show us, and that we show at all
SHOW_TIMEOUT_S = 5.0
COUNTS_S = 86_400  # as long as a ban with proof, at most
MAX_FILE = 4 * 2**20
_disk = trio.CapacityLimiter(1)

Told = Callable[[PeerId], None]


class ProofKeeper:
    """Each seller with a proof here was reported once in this life of the node."""

    def __init__(
        self, network: Network, greeter: Greeter, book: OrderBook, path: Path, wall_time: Callable[[], float]
    ) -> None:
        self._network, self._greeter, self._book, self._path, self._wall_time = network, greeter, book, path, wall_time
        self._kept: dict[PeerId, KeptProof] = {}
        self._told: list[Told] = []
        self._shown, self._showing = RateLimit(SHOWN_PER_SECOND, SHOWN_BURST), RateLimit(SHOWN_PER_SECOND, SHOWN_BURST)

    def __len__(self) -> int:
        return len(self._kept)

    def tell(self, told: Told) -> None:
        """Have ``told`` hear of every seller that is convicted, those of before included."""
        self._told.append(told)
        for seller in self._kept:
            told(seller)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: what is on disk counts, and neighbours may show us more."""
        await self._load()
        self._network.serve(PROOF, self._accept)
        task_status.started()
        while True:
            await trio.sleep(LOOK_S)
            found = [Equivocation(one, other) for one, other in self._book.take_proofs()]
            fresh = [proof for proof in found if self._convict(proof)]
            if fresh:
                await self._save()
            for proof in fresh:
                if self._showing.allow("", trio.current_time()):
                    await self._show(proof)

    def _convict(self, proof: Equivocation) -> bool:
        """Count a proof; whether it was news. Raises PeerFault, UnknownMessage."""
        seller = culprit(proof, self._greeter.network)
        if seller in self._kept or seller == self._network.peer:
            return False
        self._keep(seller, KeptProof(proof, int(self._wall_time())))
        log.warning("a seller said two things under one serial", seller=peer_text(seller))
        return True

    def _keep(self, seller: PeerId, kept: KeptProof) -> None:
        self._kept[seller] = kept
        if len(self._kept) > MAX_PROOFS:
            ages = {peer: one.seen_at for peer, one in self._kept.items()}
            del self._kept[which_goes(ages, self._book.measured_sellers)]
        self._network.report(seller, Fault.EQUIVOCATED)
        for told in self._told:
            told(seller)

    # -- neighbours --------------------------------------------------------------------------------------------------

    async def _accept(self, raw: Stream) -> None:
        stream = MessageStream(raw)
        try:
            await self._greeter.greet(stream)
            while (said := await stream.receive(timeout=SHOW_TIMEOUT_S)) is not None:
                if not isinstance(said, Equivocation):
                    raise PeerFault(f"{type(said).__name__} on a proof stream")
                if not self._shown.allow(raw.peer, trio.current_time()):
                    raise Refused("TOO_MANY", "proofs are shown one by one")
                if self._convict(said):
                    await self._save()
            await stream.aclose()
        except (Refused, Unavailable, UnknownMessage) as exc:
            log.debug("proof stream ended", peer=peer_text(raw.peer), reason=str(exc))
            await stream.reset()

    async def _show(self, proof: Equivocation) -> None:
        """Show a proof to a few neighbours; one that does not listen is passed over."""
        async with trio.open_nursery() as nursery:
            for peer in sorted(self._network.connected())[:SHOWN_TO]:
                nursery.start_soon(self._show_one, peer, proof)

    async def _show_one(self, peer: PeerId, proof: Equivocation) -> None:
        with trio.move_on_after(SHOW_TIMEOUT_S):
            try:
                async with MessageStream(await self._network.open(peer, PROOF)) as stream:
                    await self._greeter.say(stream, proof)
                    await stream.finish()
                    await self._greeter.hear(stream)
                    await stream.receive()  # nothing but its end: by then it was heard
            except PasarError as exc:
                log.debug("proof not shown", peer=peer_text(peer), reason=str(exc))

    # -- disk --------------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        try:
            data = await trio.to_thread.run_sync(_read, self._path, limiter=_disk)
            kept = decode_as(KeptProofs, data, MAX_FILE).proofs if data else ()
            for one in kept:
                if one.seen_at + COUNTS_S > self._wall_time():
                    self._keep(culprit(one.proof, self._greeter.network), one)
        except (OSError, PasarError) as exc:
            log.warning("proofs cannot be read", path=str(self._path), reason=str(exc))

    async def _save(self) -> None:
        data = encode(KeptProofs(tuple(self._kept.values())))
        try:
            await trio.to_thread.run_sync(_write, self._path, data, limiter=_disk)
        except OSError as exc:
            log.warning("proofs not saved", path=str(self._path), reason=exc.strerror)


def _read(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(MAX_FILE)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.replace(path)
