"""Gateway: buys for clients. Takes bids, runs auctions, pays, checks, delivers.

    BookFeed (gossip) · LoadFeed (load streams) · ControlLines (quotes) · Purchase (job streams) · JobRun (one per bid)

A job belongs to the gateway once it is taken: the client's stream may come and go, the same bid on a new stream picks
the job up, and what was under way when the process died goes on from the journal. Knows no chain; the books do.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from compute.trace import TraceLeaf
from ledger.customers import CustomerBooks
from ledger.journal import Writes
from ledger.money import MAX_WEI, Settlement, price_for
from ledger.sending import SendingBooks
from market.auction import UNKNOWN_RTT_MS
from market.auctioneer import Auctioneer
from market.basket import Basket
from market.bid import RESTING_PER_CLIENT, Bid, RestingBids, job_id
from market.bidserver import BidServer
from market.bidwire import JobDone
from market.bookfeed import BookFeed
from market.controls import ControlLines
from market.conversation import now_ms
from market.counter import Counter
from market.hello import Greeter
from market.inspecting import NO_INSPECTION, Inspection, Inspector
from market.jobrun import JobRun
from market.jobstore import JobStore
from market.keeping import Keeping, name_of
from market.loadfeed import LoadFeed
from market.outcome import charged
from market.policy import EVERYTHING, Policy
from market.protocol import BID
from market.purchase import Purchase
from market.readystreams import ReadyStreams
from market.refusal import Code, Refusal, simple
from market.reputation import NEWCOMER_JOBS, Reputation
from market.scoring import Chance
from market.session import Buying, events
from market.sessionstore import Kept, SessionStore
from market.tracedesk import TraceDesk, ask_leaves, from_seller
from market.tracewire import TraceAsk, opened_ask
from p2p.codec import encode
from p2p.envelope import Signer
from p2p.errors import MalformedMessage, Unavailable, UnknownMessage
from p2p.peer import PeerId, address_of
from p2p.transport import Network, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

KEEP_S = 600.0  # results of finished jobs, for a client that comes back
LINGER_S = 60.0  # what is on disk, or cost nothing, is not remembered here for longer
MAX_JOBS = 1024
MAX_INPUT_BYTES = 512 * 2**20  # of all unfinished jobs together, in memory while they arrive and then on disk
ROOM_PART = 16  # of the room left, the most that one client has open: keys cost nothing, so nobody may be the last
ADDRESS_PART = 4  # of all jobs, what the clients of one address have open, where rules for one address bind
SWEEP_S = 15.0
MONTH_S = 30 * 86_400.0
NEWCOMER_PART = 50  # of a month's spend, what all newcomers together may owe us


@dataclass(frozen=True, slots=True)
class Means:
    """What a gateway is made of; every part is owned and run by somebody else."""

    signer: Signer
    network: Network
    greeter: Greeter
    feed: BookFeed
    lines: ControlLines
    journal: Writes
    books: SendingBooks
    customers: CustomerBooks
    results: Keeping
    inputs: Keeping
    settlement: Settlement
    reach: Callable[[PeerId], Awaitable[None]]
    small_job: int
    development: bool
    chance: Chance
    nonce: Callable[[int], bytes]
    wall_time: Callable[[], float]
    reached: Callable[[str], None] = lambda point: None
    policy: Policy = EVERYTHING
    binds: Callable[[str], bool] = lambda ip: False  # whether rules for one address hold for this one
    inspection: Inspection = NO_INSPECTION


class Gateway:
    """At most ``MAX_JOBS`` jobs, finished ones included; a job id has one JobRun."""

    def __init__(self, means: Means) -> None:
        self._m = m = means
        self.reputation = Reputation()
        m.lines.answered = self.reputation.answered
        self.loads = self._load_feed()
        self._sessions = SessionStore(m.journal, "buying", m.wall_time)
        self._streams = ReadyStreams(m.network, m.greeter, m.reach)
        self._basket = self._make_basket()
        self.inspector = self._make_inspector()
        self._counter = Counter(
            feed=m.feed,
            auctioneer=Auctioneer(m.lines, self.reputation, m.chance, self._streams.prepare),
            basket=self._basket,
            customers=m.customers,
            jobs=JobStore(m.journal, m.wall_time),
            results=m.results,
            inputs=m.inputs,
            resting=RestingBids(),
            settlement=m.settlement,
            chance=m.nonce,
            exposures=self._exposures,
            newcomer_room=self._newcomer_room,
            rtts=self._rtts,
            loads=self.loads.loads,
            start=self._start,
            delivered=self.inspector.delivered,
        )
        self._runs: OrderedDict[bytes, JobRun] = OrderedDict()
        self._going: list[JobRun] = []  # of them, those without an outcome when it was last looked
        self._ended_at: dict[bytes, float] = {}
        self._shelved: set[str] = set()  # results on disk whose runs this process does not remember
        self._from: dict[bytes, str | None] = {}  # where the client of a run was
        self._nursery: trio.Nursery | None = None
        self._month_spent, self.draining = 0, False
        self._server = BidServer(m.greeter, m.feed, m.settlement, self.take, self.cancel)
        ours, opens = (lambda receipt: receipt.gateway == m.signer.peer), from_seller(m.network, m.greeter, m.reach)
        self._trace_desk = TraceDesk(m.network, m.greeter, ours, opens)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: old jobs go on and bids are taken."""
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._streams.run)
            await self._nursery.start(self.inspector.run)
            self._shelved = {kept for kept, _ in await self._m.results.names()}
            await self._restore()
            await self._drop_inputs()
            self._m.network.serve(BID, self._server.accept)
            self._trace_desk.serve()
            self._nursery.start_soon(self._sweep)
            await self._nursery.start(self.loads.run)
            task_status.started()

    async def drain(self) -> None:
        """Take no new bids, and wait until every job has its outcome and every client that is here its result."""
        self.draining = True
        for run in tuple(self._runs.values()):
            await run.over.wait()
        await self._server.idle()

    async def take(self, raw: Stream, bid: Bid) -> JobRun | Refusal:
        """The run of this bid: a new one, or the one it already has. A refusal where it cannot be taken."""
        name = job_id(self._m.signer.peer, raw.peer, bid.nonce)
        run = self._runs.get(name)
        if run is not None:
            same = encode(run.bid) == encode(bid)
            return run if same else simple(Code.CONFLICT, "another bid has this id", limit_wei=bid.limit)
        if not (self._m.development and raw.remote.loopback):
            hint = "this gateway serves loopback on a development chain only: prepaid credit is not sold here"
            return simple(Code.NO_CREDIT, hint, limit_wei=bid.limit)
        if not bid.limit and not self._m.development:
            return simple(Code.NO_CREDIT, "name a limit: off the development chain none is chosen for you")
        if reason := self._m.policy.refuses(bid.spec):
            return simple(Code.POLICY, reason, limit_wei=bid.limit)
        if self.draining or not self._room():
            return simple(Code.BUSY, "this gateway takes no more bids now", limit_wei=bid.limit)
        if self._of(raw.peer) >= self._share() or self._crowded(raw):
            return simple(Code.TOO_MANY, "too many bids of yours are open", limit_wei=bid.limit)
        if (
            sum(one.bid.spec.shape.input_bytes for one in self._unfinished())
            > MAX_INPUT_BYTES - bid.spec.shape.input_bytes
        ):
            return simple(Code.BUSY, "no room for more inputs now", limit_wei=bid.limit)
        run = self._runs[name] = JobRun(self._counter, name, raw.peer, bid, free=True)
        self._going.append(run)
        self._from[name] = raw.remote.ip
        kept = await self._m.results.note(name_of(name), JobDone) if name_of(name) in self._shelved else None
        if kept is not None:
            run.recall(kept)
            self._ended_at[name] = trio.current_time()
            if isinstance(run.outcome, Refusal):
                self._forget(name)
        elif self._nursery is not None:
            await self._nursery.start(self._run, run)
        return run

    async def cancel(self, run: JobRun) -> None:
        """The client of this run took its bid back."""
        run.cancel()

    # -- what it is made of ------------------------------------------------------------------------------------------

    def _load_feed(self) -> LoadFeed:
        m = self._m
        return LoadFeed(
            m.network,
            m.greeter,
            m.reach,
            m.feed,
            self.reputation,
            m.settlement,
            m.chance,
            salt=m.nonce(16),
            met=m.lines.prepare,
        )

    def _make_basket(self) -> Basket:
        m = self._m
        return Basket(
            signer=m.signer,
            greeter=m.greeter,
            streams=self._streams,
            books=m.books,
            reputation=self.reputation,
            store=self._sessions,
            keeping=m.results,
            rtts=lambda seller: m.lines.rtts.get(seller, 0),
            small_job=m.small_job,
            reached=m.reached,
            measured=self._measured,
            report=m.network.report,
        )

    def _make_inspector(self) -> Inspector:
        m = self._m

        async def opened(ask: TraceAsk) -> tuple[TraceLeaf, ...]:
            seller = PeerId(opened_ask(ask).orchestrator)
            return await ask_leaves(m.network, m.greeter, m.reach, seller, ask)

        return Inspector(
            m.inspection, m.signer.peer, lambda: self._counter, self.reputation, m.books, opened, secrets.token_bytes
        )

    def _measured(self, seller: PeerId) -> None:
        self._m.feed.book.measured(seller)
        self._m.feed.stir()  # bids that wait may have its place

    # -- runs and purchases ------------------------------------------------------------------------------------------

    async def _run(self, run: JobRun, *, task_status: TaskStatus[None]) -> None:
        await run.run(task_status=task_status)
        self._ended_at[run.job_id] = trio.current_time()

    async def _start(self, purchase: Purchase) -> None:
        if self._nursery is None:
            raise Unavailable("the gateway is stopping")
        self._nursery.start_soon(purchase.run)  # what is posted to it meanwhile is there when it begins

    def _exposures(self) -> dict[PeerId, int]:
        """What every seller we have dealt with may owe us, in wei: its standing at the price of its own offer."""
        found = {}
        for seller in self.reputation.sellers():
            units = self._m.books.exposure(address_of(seller), self._m.small_job)
            postings = (self._m.feed.book.posting(seller, pipeline) for pipeline in self._m.feed.pipelines)
            prices = [posting.offer.price for posting in postings if posting is not None]
            if prices:
                found[seller] = price_for(units, max(prices))
        return found

    def _rtts(self) -> dict[PeerId, int]:
        """Milliseconds to whoever has answered; whoever is connected counts as one that will."""
        return dict.fromkeys(self._m.network.connected(), UNKNOWN_RTT_MS) | self._m.lines.rtts

    def _newcomer_room(self, limit: int, units: int) -> int:
        """Two small jobs at this bid's own price, or a fiftieth of the month's spend; less what is at risk already."""
        if not limit:
            return MAX_WEI  # the limit comes first; what it leaves is judged with it
        most = max(limit * 2 * self._m.small_job // units, self._month_spent // NEWCOMER_PART)
        return max(0, most - self._m.books.at_risk_with_newcomers(NEWCOMER_JOBS))

    def _of(self, client: PeerId) -> int:
        return sum(run.client == client for run in self._unfinished())

    def _crowded(self, raw: Stream) -> bool:
        """Whether the address that this comes from has as many jobs open as one address may have."""
        ip = raw.remote.ip
        if ip is None or not self._m.binds(ip):
            return False
        open_there = (at == ip and not self._runs[name].over.is_set() for name, at in self._from.items())
        return sum(open_there) >= MAX_JOBS // ADDRESS_PART

    def _share(self) -> int:
        """How many bids one client may have open now: all it may ever have, until half of the room is taken."""
        return min(RESTING_PER_CLIENT, -(-(MAX_JOBS - len(self._unfinished())) // ROOM_PART))

    def _unfinished(self) -> list[JobRun]:
        """Runs without an outcome: those with one are kept by the hundred."""
        self._going = [run for run in self._going if not run.over.is_set()]
        return self._going

    def _room(self) -> bool:
        """Whether one more job fits; the oldest finished one goes when it must."""
        if len(self._runs) < MAX_JOBS:
            return True
        over = next((name for name, run in self._runs.items() if run.over.is_set()), None)
        if over is not None:
            self._forget(over)
        return over is not None

    async def _sweep(self) -> None:
        """Forget what was finished long ago, also what an earlier life of this process left on disk."""
        while True:
            self._month_spent = await self._m.books.spent_since(MONTH_S)
            for name, at in tuple(self._ended_at.items()):
                over_s = trio.current_time() - at
                if LINGER_S < over_s <= KEEP_S:
                    self._put_away(name)
                elif over_s > KEEP_S:
                    self._forget(name)
                    await self._m.results.drop(name_of(name))
                    self._shelved.discard(name_of(name))
            for kept, at in await self._m.results.names():
                if self._m.wall_time() - at > 2 * KEEP_S:
                    await self._m.results.drop(kept)
                    self._shelved.discard(kept)
            await trio.sleep(SWEEP_S)

    def _put_away(self, name: bytes) -> None:
        """Remember of a job no more than its name: its result is on disk, or it cost nothing and its bid is spent."""
        run = self._runs.get(name)
        if run is not None and (isinstance(run.outcome, JobDone) or not charged(run.outcome)):
            at = self._ended_at[name]
            self._forget(name)
            self._ended_at[name] = at

    def _forget(self, name: bytes) -> None:
        run = self._runs.pop(name, None)
        self._ended_at.pop(name, None)
        self._from.pop(name, None)
        if run is not None and isinstance(run.outcome, JobDone):
            self._shelved.add(name_of(name))

    # -- after a restart ---------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Every job without an outcome goes on, with the attempts that were under way."""
        kept = await self._sessions.load()
        for taken in await self._counter.jobs.load():
            run = JobRun.restored(self._counter, taken)
            self._runs[taken.job.job_id] = run
            self._going.append(run)
            purchases = [p for k in kept if k.job_id == taken.job.job_id and (p := self._resumed(k, run)) is not None]
            log.info(
                "job restored",
                job=taken.job.job_id.hex()[:16],
                attempts=len(taken.job.attempts),
                under_way=len(purchases),
            )
            await self._go_on(run, purchases)
        for orphan in [k for k in kept if k.job_id not in self._runs]:
            purchase = self._resumed(orphan, None)
            if purchase is not None:
                purchase.taken.set()
                await self._start(purchase)
                purchase.talk.post(events.Restarted())

        for name in sorted(set(await self._m.customers.open_jobs()) - self._runs.keys()):
            await self._m.customers.give_back(name)

    async def _drop_inputs(self) -> None:
        """Inputs of jobs that are over and were not dropped in time."""
        going = {name_of(run.job_id) for run in self._unfinished()}
        for kept, _ in await self._m.inputs.names():
            if kept not in going:
                await self._m.inputs.drop(kept)

    async def _go_on(self, run: JobRun, purchases: list[Purchase]) -> None:
        for purchase in purchases:
            run.inputs.offer_to(purchase.parcels)
            await self._start(purchase)
            purchase.talk.post(events.Restarted())
        if self._nursery is not None:
            self._nursery.start_soon(self._resume, run, purchases)

    async def _resume(self, run: JobRun, purchases: list[Purchase]) -> None:
        await run.resume(purchases)
        self._ended_at[run.job_id] = trio.current_time()

    def _resumed(self, kept: Kept, run: JobRun | None) -> Purchase | None:
        try:
            session = Buying.restore(kept.record, now_ms(), kept.age_ms)
        except (MalformedMessage, UnknownMessage) as exc:
            log.error("a kept session cannot be read", job=kept.job_id.hex()[:16], reason=str(exc))
            return None
        tell = run.bulletin.tell if run is not None else lambda news: None
        return Purchase(self._basket, kept.peer, session, tell, counted=kept.counted)
