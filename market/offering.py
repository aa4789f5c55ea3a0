"""Offering: keeps the orchestrator's own offers in front of the market.

One Offer per pipeline, published on change and refreshed before its neighbours forget it; withdrawn when the node
drains. A serial is the calendar in milliseconds, or one more than the last, so that a restart goes on above what it
said before. Knows no buyer and no job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
import trio

from compute.capability import Capability, ModelCapability
from compute.spec import Quality, Verification
from ledger.money import Settlement
from market.book import claimed_speed
from market.bookfeed import BookFeed
from market.hello import Greeter
from market.offer import MAX_MODELS, MAX_SPEED, ModelOffer, Offer
from market.pricing import Pricing
from market.protocol import offers_topic
from p2p.codec import encode
from p2p.envelope import Signer, sign
from p2p.peer import Address
from p2p.transport import Gossip

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

SHORTEST_REFRESH_S = 300
REFRESHES_PER_SECOND = 5  # what all offers of a topic together may cost in refreshes
LOOK_EVERY_S = 0.5
LEAVES_S = 1.0  # publishing promises nothing: a heartbeat of the mesh, before the node ends
REPEAT_AFTER_S = 2.0  # a fresh offer is said once more: the mesh may not have stood when it was first said


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator asks: wei per million units, places (None: as many as pay), where the money goes.

    ``price`` is that of every pipeline where ``pricing`` does not tell them apart.
    """

    price: int
    slots: int | None
    settlement: Settlement
    payout: Address
    pricing: Pricing | None = None


class Offering:
    """``current`` is what was last published for a pipeline; nothing older is ever published again."""

    def __init__(
        self,
        signer: Signer,
        gossip: Gossip,
        feed: BookFeed,
        greeter: Greeter,
        terms: Terms,
        capability: Callable[[], Capability],
        slots: Callable[[str], int],
        wall_time: Callable[[], float],
    ) -> None:
        """``slots`` says how many jobs of a pipeline may be had at a time."""
        self._signer, self._gossip, self._feed, self._greeter = signer, gossip, feed, greeter
        self._terms, self._capability, self._slots, self._wall_time = terms, capability, slots, wall_time
        self._current: dict[str, Offer] = {}
        self._said_at: dict[str, float] = {}
        self._repeated: set[str] = set()
        self._withdrawn = False

    def current(self, pipeline: str) -> Offer | None:
        """Our own live offer."""
        offer = self._current.get(pipeline)
        return None if offer is None or offer.withdrawn else offer

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: everything that can be offered was said once."""
        await self._look()
        task_status.started()
        while True:
            await trio.sleep(LOOK_EVERY_S)
            await self._look()

    async def withdraw(self) -> None:
        """Say that nothing is on offer any more, for good. Returns when the word had time to leave."""
        self._withdrawn = True
        for pipeline, offer in tuple(self._current.items()):
            if not offer.withdrawn:
                await self._publish(pipeline, replace(offer, slots=0, models=()))
                await trio.sleep(LEAVES_S)

    async def _look(self) -> None:
        if self._withdrawn:
            return
        capability, pricing = self._capability(), self._terms.pricing
        if pricing is not None:
            await pricing.learn(capability)
        for pipeline in sorted(self._current.keys() - {entry.pipeline for entry in capability.models}):
            if self.current(pipeline) is not None:  # its last device has gone
                await self._publish(pipeline, replace(self._current[pipeline], slots=0, models=()))
        for pipeline in sorted({entry.pipeline for entry in capability.models}):
            offer = self._made(pipeline, capability)
            known, now = self._current.get(pipeline), trio.current_time()
            if known is None or _essence(known) != _essence(offer):
                await self._publish(pipeline, offer)
                self._repeated.discard(pipeline)
            elif now - self._said_at[pipeline] >= known.refresh_s:
                await self._publish(pipeline, offer)
            elif pipeline not in self._repeated and now - self._said_at[pipeline] >= REPEAT_AFTER_S:
                self._repeated.add(pipeline)
                await self._publish(pipeline, offer)

    def _made(self, pipeline: str, capability: Capability) -> Offer:
        models = tuple(_model(entry) for entry in capability.models if entry.pipeline == pipeline)[:MAX_MODELS]
        live = self._feed.book.known(pipeline)
        return Offer(
            network=self._greeter.network,
            settlement=self._terms.settlement,
            seller=self._signer.peer,
            serial=0,
            pipeline=pipeline,
            models=models,
            price=self._terms.pricing.ask(pipeline, capability) if self._terms.pricing else self._terms.price,
            slots=self._slots(pipeline),
            verification=(Verification.NONE, Verification.RECEIPT, Verification.TRACE),
            payout=self._terms.payout,
            refresh_s=min(86_400, max(SHORTEST_REFRESH_S, live // REFRESHES_PER_SECOND)),
            issued_at=int(self._wall_time()),
        )

    async def _publish(self, pipeline: str, offer: Offer) -> None:
        known = self._current.get(pipeline)
        serial = max(int(self._wall_time() * 1000), known.serial + 1 if known else 0)
        fresh = replace(offer, serial=serial, issued_at=int(self._wall_time()))
        data = encode(sign(fresh, self._signer))
        self._current[pipeline], self._said_at[pipeline] = fresh, trio.current_time()
        self._feed.post(data, pipeline)
        await self._gossip.publish(offers_topic(self._greeter.network, pipeline), data)
        log.info("offer published", pipeline=pipeline, models=len(fresh.models), price=fresh.price, slots=fresh.slots)


def _model(entry: ModelCapability) -> ModelOffer:
    return ModelOffer(
        name=entry.name[:48],
        model=entry.model,
        native_side=entry.native_side,
        max_side=entry.max_side,
        max_steps=entry.max_steps,
        dtype=entry.dtype.value,
        quality=Quality.EXACT,
        warm=entry.warm,
        # in coarse steps: a speed that wobbles is not news
        speed=claimed_speed(min(MAX_SPEED, entry.units_per_second)),
        load_ms=entry.load_ms,
        max_length=entry.max_length,
        max_input=entry.max_input,
    )


def _essence(offer: Offer) -> tuple[object, ...]:
    """What makes a change worth saying: everything but the serial, the time and small moves of the measured speed."""
    models = tuple(replace(model, speed=model.speed.bit_length(), load_ms=0) for model in offer.models)
    return models, offer.price, offer.slots, offer.settlement, offer.payout
