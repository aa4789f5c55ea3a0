"""Orchestrator: sells compute. Says what it offers, quotes, takes awards, has the work done, is paid.

    Offering (gossip) · LoadDesk (load streams) · QuoteDesk (control streams) · Sale (one per award, job streams)

A job stream may be a new award or the second stream of an old conversation; which one, its first message says. What
was open when the process died is restored from the journal and goes on. Knows no chain; the books do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from compute.spec import JobShape
from compute.work import Machine
from ledger.cover import CoverSource
from ledger.journal import Writes
from ledger.receiving import ReceivingBooks
from market import jobwire as wire
from market.bookfeed import BookFeed
from market.conversation import closing, now_ms
from market.hello import Greeter
from market.keeping import Keeping
from market.loaddesk import LoadDesk
from market.offer import MAX_MODELS, Load
from market.offering import Offering, Terms
from market.placing import Placing
from market.policy import EVERYTHING, Policy
from market.protocol import JOB
from market.quote import MAX_FINISH_MS, Places
from market.quotedesk import QuoteDesk
from market.sale import Sale
from market.session import Selling, events
from market.sessionstore import Counted, Kept, SessionStore
from market.shop import Shop
from market.tracedesk import TraceDesk, from_machine
from p2p.envelope import Signer
from p2p.errors import MalformedMessage, PeerFault, Refused, Unavailable, UnknownMessage
from p2p.peer import Address, PeerId, address_of, peer_text
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Gossip, Network, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

FIRST_MESSAGE_S = 120.0  # gateways open job streams ahead of their awards
MAX_UNOPENED = 8  # job streams of one gateway on which nothing was said yet
DRAIN_LOOK_S = 0.1
MAX_SALES = 1024  # open or kept; beyond, what is over goes first, and then awards are declined
MAX_SALES_EACH = 256  # of them, of one gateway
Name = tuple[PeerId, bytes, int]


@dataclass(frozen=True, slots=True)
class Supplies:
    """What an orchestrator is made of; every part is owned and run by somebody else."""

    signer: Signer
    network: Network
    gossip: Gossip
    greeter: Greeter
    feed: BookFeed
    machine: Machine
    journal: Writes
    books: ReceivingBooks
    cover: CoverSource
    look_up: Callable[[Address], Awaitable[object]]
    keeping: Keeping
    terms: Terms
    small_job: int
    development: bool
    wall_time: Callable[[], float]
    policy: Policy = EVERYTHING
    reached: Callable[[str], None] = lambda point: None


class Orchestrator:
    """No more sales are in work than the machine runs at a time, and each (gateway, job, attempt) has one Sale."""

    def __init__(self, supplies: Supplies) -> None:
        self._s = s = supplies
        slots = s.machine.capability().slots
        if s.terms.slots is not None and slots < s.terms.slots:
            log.warning("fewer slots than were asked for", slots=slots, asked=s.terms.slots)
        self.placing = Placing(s.machine, s.terms.slots)
        self.offering = Offering(
            s.signer, s.gossip, s.feed, s.greeter, s.terms, s.machine.capability, self.placing.offered, s.wall_time
        )
        self.desk = QuoteDesk(
            s.network,
            s.greeter,
            s.signer,
            s.terms.settlement,
            offer=self.offering.current,
            places=self._places,
            funded=self._funded,
        )
        self.load_desk = LoadDesk(s.network, s.greeter, look=self._load, favours=self._is_favoured)
        self._shop = Shop(
            signer=s.signer,
            network=s.greeter.network,
            settlement=s.terms.settlement,
            books=s.books,
            machine=s.machine,
            desk=self.desk,
            store=SessionStore(s.journal, "selling", s.wall_time),
            keeping=s.keeping,
            small_job=s.small_job,
            development=s.development,
            wall_time=s.wall_time,
            spare=self._spare,
            owed=self._owed,
            look_up=s.look_up,
            policy=s.policy,
            reached=s.reached,
        )
        self._sales: dict[Name, Sale] = {}
        self._going: dict[Name, Sale] = {}  # of them, those that were not finished when it was last looked
        self._unopened: Counter[PeerId] = Counter()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: old sales go on, quotes are given, offers are said."""
        async with trio.open_nursery() as self._nursery:
            for kept in await self._shop.store.load():
                await self._restore(kept)
            self._s.network.serve(JOB, self._accept)
            self.desk.serve()
            self._serve_traces()
            await self._nursery.start(self.load_desk.run)
            await self._nursery.start(self.offering.run)
            task_status.started()

    async def drain(self) -> None:
        """Take nothing new, and wait until everything taken is worked and delivered."""
        self.desk.draining = True
        await self.offering.withdraw()
        # Looked at, not waited for: a sale tells nobody of its states, and this ends the node.
        while any(sale.is_busy for sale in self._sales.values()):  # noqa: ASYNC110
            await trio.sleep(DRAIN_LOOK_S)

    def _serve_traces(self) -> None:
        s = self._s
        ours = s.signer.peer
        opens = from_machine(s.machine)
        TraceDesk(s.network, s.greeter, lambda receipt: receipt.orchestrator == ours, opens).serve()

    # -- what the desk asks ------------------------------------------------------------------------------------------

    def _places(self, shape: JobShape) -> Places:
        return self.placing.places(shape, _shapes(self._in_work()), self.desk.held_shapes())

    def _load(self, pipeline: str) -> Load | None:
        """How busy we are: ``free`` counts the places that a quote could be had for now."""
        offer, capability = self.offering.current(pipeline), self._s.machine.capability()
        if offer is None:
            return None
        in_work = self._in_work()
        free = self.placing.free(pipeline, [*_shapes(in_work), *self.desk.held_shapes()])
        wait = min((_left_ms(sale, self._s.machine, len(in_work)) for sale in in_work), default=0)
        warm = sorted(model.model for model in capability.models if model.warm and model.pipeline == pipeline)
        return Load(
            pipeline=pipeline,
            sequence=0,
            free=0 if self.desk.draining else free,
            queue=len(in_work),
            queue_ms=0 if free else min(MAX_FINISH_MS, wait),
            warm=tuple(warm[:MAX_MODELS]),
        )

    def _is_favoured(self, gateway: PeerId) -> bool:
        return self._funded(address_of(gateway))

    def _funded(self, gateway: Address) -> bool:
        return self._s.cover.deposit_of(gateway).total > 0

    def _spare(self, sender: Address, name: tuple[bytes, int]) -> int:
        """The gateway's credit, less what its other sales here hold; also those of the same job."""
        held = sum(sale.held for sale in self._others(sender, name))
        return max(0, self._s.books.credit_of(sender) - held)

    def _owed(self, sender: Address, name: tuple[bytes, int]) -> int:
        """Units that the gateway's other sales here have in work, or worked and not paid."""
        return sum(sale.session.award.spec.shape.units for sale in self._others(sender, name) if sale.is_owed)

    def _others(self, sender: Address, name: tuple[bytes, int]) -> Iterator[Sale]:
        return (sale for sale in self._unfinished() if sale.sender == sender and sale.name != name)

    def _in_work(self) -> list[Sale]:
        return [sale for sale in self._unfinished() if sale.in_work]

    def _unfinished(self) -> list[Sale]:
        """Sales that are neither delivered nor over: the others are kept by the hundred, and hold nothing any more."""
        self._going = {name: sale for name, sale in self._going.items() if not sale.is_finished}
        return list(self._going.values())

    # -- job streams -------------------------------------------------------------------------------------------------

    async def _accept(self, raw: Stream) -> None:
        stream = MessageStream(raw, JOB_FRAME)
        try:
            said = await self._first_message(stream)
            if said is None:
                return
            if not isinstance(said, wire.Award | wire.Tickets | wire.Cancellation | wire.Resume | wire.Closure):
                raise PeerFault(f"{type(said).__name__} opens no job stream")
            sale = await self._sale_for(raw.peer, said)
            if isinstance(sale, Sale):
                await sale.talk.attach(stream, opening=said)
            else:
                await stream.send(sale)
        except (Refused, Unavailable) as exc:
            log.debug("job stream ended", peer=peer_text(raw.peer), reason=str(exc))
        finally:
            await closing(stream)

    async def _first_message(self, stream: MessageStream) -> object:
        """What a job stream is opened with; None when the gateway hung up. Raises Refused for too many silent ones."""
        if self._unopened[stream.peer] >= MAX_UNOPENED:
            raise Refused("TOO_MANY", "too many job streams of yours are open on which nothing was said")
        self._unopened[stream.peer] += 1
        try:
            await self._s.greeter.greet(stream)
            return await stream.receive(timeout=FIRST_MESSAGE_S)
        finally:
            self._unopened[stream.peer] -= 1
            if not self._unopened[stream.peer]:
                del self._unopened[stream.peer]

    async def _sale_for(self, gateway: PeerId, said: wire.FromGateway) -> Sale | wire.JobMessage:
        """The sale that this is about, a new one for a good award; else the answer, and nothing is left of it."""
        name = (gateway, said.job_id, said.attempt)
        sale = self._sales.get(name)
        if sale is not None:
            return sale
        if not isinstance(said, wire.Award):
            return wire.Closure(said.job_id, said.attempt, wire.UNKNOWN)
        code, hint = self.desk.check(said, gateway)
        if not code and not await self._has_room(gateway):
            code, hint = wire.BUSY, "too many jobs of yours are open or kept here"
        if code:
            return wire.JobRefusal(said.job_id, said.attempt, code, hint=hint)
        return self._sales.get(name) or await self._begin(name, Selling())

    async def _has_room(self, gateway: PeerId) -> bool:
        """Whether one more sale of this gateway fits; the oldest that is over goes when it must."""
        own = [name for name in self._sales if name[0] == gateway]
        for names, most in ((own, MAX_SALES_EACH), (list(self._sales), MAX_SALES)):
            if len(names) < most:
                continue
            over = next((name for name in names if self._sales[name].is_over), None)
            if over is None:
                return False
            await self._sales.pop(over).leave()
        return True

    async def _begin(self, name: Name, session: Selling, counted: Counted = Counted.NOTHING) -> Sale:
        gateway, job_id, attempt = name
        sale = self._sales[name] = self._going[name] = Sale(self._shop, gateway, session, (job_id, attempt), counted)
        if self._nursery is None:
            raise Unavailable("the orchestrator is stopping")
        self._nursery.start_soon(self._run_sale, name, sale)  # what is posted to it meanwhile is there when it begins
        return sale

    async def _run_sale(self, name: Name, sale: Sale) -> None:
        try:
            await sale.run()
        finally:
            for kept in (self._sales, self._going):
                if kept.get(name) is sale:
                    del kept[name]

    async def _restore(self, kept: Kept) -> None:
        try:
            session = Selling.restore(kept.record, now_ms(), kept.age_ms)
        except (MalformedMessage, UnknownMessage) as exc:
            log.error("a kept session cannot be read", job=kept.job_id.hex()[:16], reason=str(exc))
            return
        sale = await self._begin((kept.peer, kept.job_id, kept.attempt), session, kept.counted)
        sale.talk.post(events.Restarted())
        log.info("sale restored", job=kept.job_id.hex()[:16], attempt=kept.attempt, state=session.state.value)


def _shapes(sales: list[Sale]) -> list[JobShape]:
    return [sale.session.award.spec.shape for sale in sales]


def _left_ms(sale: Sale, machine: Machine, jobs: int) -> int:
    """How long until the place of this sale is free, as far as can be said: its steps tell once it runs."""
    shape = sale.session.award.spec.shape
    if sale.ready_at is not None:
        return max(0, sale.ready_at - now_ms())
    return machine.crowded_ms(shape, jobs) if machine.capability().fits(shape) else 0
