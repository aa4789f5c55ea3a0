"""Looking: what ``offers`` and ``models`` do: join as a light client, read a gateway's book, show it, leave.

The book is read on ``/pasar/book/1`` like a newcomer's hand-over: every envelope is verified here, so that a gateway
can hide an offer but invent none. Where no gateway is found, whoever is connected (a bootstrap) is asked. Buys nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog
import trio

from compute.spec import MIN_SIDE, SIDE_STEP, Verification
from compute.yardstick import MEASURES, shape_of
from ledger.money import wei_text
from market.bidwire import ModelOnOffer
from market.book import OrderBook
from market.client import Client
from market.config import Config
from market.handover import hand_over
from market.hello import Greeter
from market.instance import claim
from market.lightclient import find_gateways, greeter_of, join
from market.loadfeed import ask_loads
from market.loads import HeardLoad, LoadsHeard
from market.offer import ModelOffer, Offer
from market.overlay import Overlay
from p2p.envelope import Signed
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.peer import PeerId, address_text, peer_text
from p2p.transport import Network, Verdict

log = structlog.get_logger(__name__)

PATIENCE_S = 15.0
ASKED = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One model of one offer, as ``offers`` lists it. Wei; ``typical_wei`` is for the typical job of its pipeline.

    ``heard``: what the gateway we asked has heard of the seller's load, where it follows that seller.
    """

    seller: PeerId
    offer: Offer
    entry: ModelOffer
    expires_in_s: int
    heard: HeardLoad | None = None

    @property
    def typical(self) -> str:
        """A typical job of this pipeline, in words; a million units where there is none."""
        known = MEASURES.get(self.offer.pipeline)
        return known.job if known is not None else "a million units"

    @property
    def typical_wei(self) -> int:
        """What that costs."""
        if self.offer.pipeline not in MEASURES:
            return self.offer.price
        side = self.entry.native_side - self.entry.native_side % SIDE_STEP
        return self.offer.price_of(shape_of(self.offer.pipeline, self.entry.model, max(MIN_SIDE, side)))

    @property
    def is_warm(self) -> bool:
        """Loaded now, as far as is known: the Load is newer than the offer."""
        return self.entry.warm if self.heard is None else self.entry.model in self.heard.load.warm

    @property
    def now(self) -> str:
        """How busy the seller is, in a word."""
        if self.heard is None:
            return "-"
        load = self.heard.load
        waits = f", {load.queue_ms / 1000:.0f} s" if load.queue_ms else ""
        return f"{load.free} free" if load.free else f"busy{waits}"

    def as_dict(self) -> dict[str, object]:
        """What a program gets."""
        offer, entry = self.offer, self.entry
        return {
            "seller": peer_text(self.seller),
            "pipeline": offer.pipeline,
            "model": entry.name,
            "model_hash": entry.model.hex(),
            "native_side": entry.native_side,
            "max_side": entry.max_side,
            "max_steps": entry.max_steps,
            "price_wei": offer.price,
            "typical_wei": self.typical_wei,
            "typical": self.typical,
            "slots": offer.slots,
            "warm": self.is_warm,
            "load": self._load(),
            "units_per_second": entry.speed,
            "verification": [kind.value for kind in offer.verification],
            "quality": entry.quality.value,
            "dtype": entry.dtype,
            "chain_id": offer.settlement.chain_id,
            "broker": address_text(offer.settlement.broker),
            "expires_in_s": self.expires_in_s,
        }

    def _load(self) -> dict[str, int] | None:
        if self.heard is None:
            return None
        load = self.heard.load
        return {"free": load.free, "queue": load.queue, "queue_ms": load.queue_ms, "age_ms": self.heard.age_ms}

    def cells(self) -> tuple[str, ...]:
        """What a person gets; the order of ``HEADINGS``."""
        offer, entry = self.offer, self.entry
        strongest = max(offer.verification, key=list(Verification).index).value
        return (
            offer.pipeline,
            entry.name,
            f"{entry.native_side or '-'} / {entry.max_side or '-'}",
            wei_text(offer.price),
            wei_text(self.typical_wei),
            str(offer.slots),
            f"…{peer_text(self.seller)[-8:]}",
            "warm" if self.is_warm else "cold",
            self.now,
            strongest,
            f"{self.expires_in_s // 60} min",
        )


HEADINGS = (
    "pipeline",
    "model",
    "side / most",
    "per million units",
    "typical job",
    "slots",
    "seller",
    "is",
    "now",
    "proves",
    "expires",
)


def rows_of(book: OrderBook, now: int, loads: Iterable[HeardLoad] = ()) -> list[Row]:
    """Every model of every live offer, the cheapest first; ties by seller."""
    heard = {(one.seller, one.load.pipeline): one for one in loads}
    rows = [
        Row(
            posting.offer.seller,
            posting.offer,
            entry,
            max(0, posting.offer.expires_at - now),
            heard.get((posting.offer.seller, posting.offer.pipeline)),
        )
        for posting in book.postings()
        if posting.live
        for entry in posting.offer.models
    ]
    return sorted(rows, key=lambda row: (row.offer.pipeline, row.offer.price, row.seller, row.entry.name))


async def read_book(network: Network, greeter: Greeter, peer: PeerId, pipelines: Iterable[str]) -> OrderBook:
    """A connected peer's whole book, each envelope verified. Raises Unavailable, Refused, PeerFault."""
    reading = Reading(OrderBook(greeter.network))
    await hand_over(network, greeter, peer, reading, pipelines)
    return reading.book


@dataclass(frozen=True, slots=True)
class Reading:
    """Keeps what a hand-over brings, and tells nobody."""

    book: OrderBook

    def take(self, offer: Offer, envelope: Signed) -> bool:
        return self.book.post(offer, envelope, int(time.time())) is Verdict.ACCEPT

    def told(self, pipeline: str) -> None:
        """Nobody waits."""


T = TypeVar("T")
Question = Callable[[Overlay, Greeter, PeerId], Awaitable[T]]


async def look(config: Config, question: Question[T], *, neighbours: bool) -> T | None:
    """The first answer to ``question`` by a gateway (else by any neighbour, if ``neighbours``); None: nobody there."""
    instance = claim(config.home, config.network, "client", config.data_dir)
    found: T | None = None
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(PATIENCE_S):
                overlay = await join(config, instance.path, nursery)
                gateways = await find_gateways(overlay, PATIENCE_S / 2)
                rest = [peer for peer in overlay.host.connected() if peer not in gateways] if neighbours else []
                found = await _first_answer(overlay, greeter_of(config), [*gateways, *rest][:ASKED], question)
            nursery.cancel_scope.cancel()
    finally:
        instance.release()
    return found


async def _first_answer(overlay: Overlay, greeter: Greeter, peers: list[PeerId], question: Question[T]) -> T | None:
    for peer in peers:
        try:
            return await question(overlay, greeter, peer)
        except (Unavailable, Refused, PeerFault) as exc:
            log.warning("no answer", peer=peer_text(peer), reason=str(exc))
    return None


async def offers_on(config: Config, pipelines: tuple[str, ...]) -> list[Row] | None:
    """Every model of every live offer; None when nobody is there to ask."""

    async def ask(overlay: Overlay, greeter: Greeter, peer: PeerId) -> list[Row]:
        book, heard = await read_book(overlay.host, greeter, peer, pipelines), LoadsHeard(())
        with suppress(Unavailable, Refused):  # a bootstrap follows nobody
            heard = await ask_loads(overlay.host, greeter, peer, pipelines)
        return rows_of(book, int(time.time()), heard.loads)

    return await look(config, ask, neighbours=True)


async def models_on(config: Config, pipeline: str) -> tuple[ModelOnOffer, ...] | None:
    """The models of a pipeline as a gateway knows them; None when no gateway is found."""

    async def ask(overlay: Overlay, greeter: Greeter, peer: PeerId) -> tuple[ModelOnOffer, ...]:
        return (await Client(overlay.host, greeter, overlay.reach).models(peer, pipeline)).models

    return await look(config, ask, neighbours=False)


def model_as_dict(model: ModelOnOffer) -> dict[str, object]:
    """What a program gets of ``models``."""
    return {
        "model": model.name,
        "model_hash": model.model.hex(),
        "native_side": model.native_side,
        "max_side": model.max_side,
        "max_steps": model.max_steps,
        "offers": model.offers,
        "warm": model.warm,
        "cheapest_wei": model.cheapest,
    }
