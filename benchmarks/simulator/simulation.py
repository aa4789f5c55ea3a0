"""One simulation: a schedule becomes a town, things happen to it, and at its end its books are read.

    schedule -> town -> clients bid, disturbances strike -> everybody ends -> a quiet while -> Result

Everything is decided by the schedule and its seed. Knows what to do and what was seen; ``invariants.py`` judges.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import trio

from benchmarks.simulator.cheap import CheapKey
from benchmarks.simulator.network import World
from benchmarks.simulator.schedule import Crash, Cut, Disturbance, Island, Schedule, Slow, Stall, Wanted
from benchmarks.simulator.stillness import JumpingClock, still
from benchmarks.simulator.town import MODEL, SETTLEMENT, Node, Town, Worker, units_of
from benchmarks.simulator.trace import End, Ending, Followed, Seen, Trace, told
from compute.spec import TEXT_TO_IMAGE
from market import jobwire as wire
from market.bid import Bid, Prefer, job_id
from market.bidwire import BidTaken, JobNews, ModelOnOffer
from market.client import Client, GatewayLost, Wish, bid_for
from market.offering import Terms
from market.refusal import Code, Refusal
from p2p.codec import decode
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.framing import FrameDecoder
from p2p.peer import Address, PeerId
from p2p.stream import JOB_FRAME

NO_ROOM = (Code.BUSY, Code.TOO_MANY, Code.NO_ANSWER)  # of one gateway: its client goes on to the next
GATEWAYS, ORCHESTRATORS, CLIENTS = 1, 1001, 100_001  # the numbers that their keys begin with
QUIET_S = 75.0  # after the last ending: longer than anything that is still under way may take
LOOK_S = 3.0  # between two looks at whether it has come to rest
PATIENCE_S = 600.0  # a simulation that lasts longer hangs
MIDDLE_PRICE = 2_000_000
ON_OFFER = ModelOnOffer("noop", MODEL, 64, 64, 8, 1, 1, MIDDLE_PRICE)
_KEY, _RESUME, _AWARD = b"\xa8delivery", b"\xa6resume", b"\xa5award"


@dataclass(frozen=True, slots=True)
class Result:
    """A simulation that is over. ``broken`` are the invariants that did not hold, in words."""

    schedule: Schedule
    digest: str
    lines: int
    mock_s: float
    broken: tuple[str, ...]


Judge = Callable[[Schedule, Town, Seen], list[str]]


def simulate(schedule: Schedule, judge: Judge, show: Callable[[str], None] | None = None) -> Result:
    """Run it to its end, and judge it. Call inside ``stillness.prepared()``."""
    with still(schedule.seed):
        result = trio.run(_Run(schedule, judge, show).whole, clock=JumpingClock())
    if schedule.seed % 16 == 0:
        gc.collect()
    return result


class _Run:
    """The state of one simulation."""

    def __init__(self, schedule: Schedule, judge: Judge, show: Callable[[str], None] | None) -> None:
        self._schedule, self._judge = schedule, judge
        self._chance = Random(schedule.seed + 1)
        self._seen, self._trace = Seen(), Trace(show)
        s = schedule
        self._world = World(self._chance, s.latency, s.loss, s.reorder, self._heard)
        self._town = Town(self._chance, self._world, self._seen, self._trace, commit_s=s.commit_s, point=self._passed)
        self._struck: dict[tuple[str, str], list[Crash]] = {}
        self._passes: dict[tuple[str, str], int] = {}

    async def whole(self) -> Result:
        town, seen = self._town, self._seen
        hung = ["it did not come to an end"]
        with trio.move_on_after(PATIENCE_S):
            async with trio.open_nursery() as self._lives:
                await self._settle()
                async with trio.open_nursery() as nursery:
                    for one in self._schedule.disturbances:
                        self._arm(one, nursery)
                    for job in self._schedule.jobs:
                        seen.jobs[job.name] = Followed()
                        nursery.start_soon(self._follow, job)
                await self._raise_all()
                hung = await self._verdict()
                self._lives.cancel_scope.cancel()
        for node in town.nodes.values():
            node.disk.close()
        return Result(self._schedule, self._trace.digest, self._trace.lines, trio.current_time(), tuple(hung))

    async def _verdict(self) -> list[str]:
        """What is wrong at the end: at once if nothing is, else after whatever may still be under way."""
        until = trio.current_time() + QUIET_S
        while True:
            found = self._judge(self._schedule, self._town, self._seen)
            if not found or trio.current_time() >= until:
                return found
            await trio.sleep(LOOK_S)

    async def _settle(self) -> None:
        """Everybody moves in."""
        for number, buyer in enumerate(self._schedule.buyers):
            self._town.gateway(buyer.name, GATEWAYS + number, buyer.lie)
        for number, one in enumerate(self._schedule.sellers):
            worker = Worker(one.step_s, one.slots)
            worker.settle(units_of(1))
            terms = Terms(one.price, one.slots, SETTLEMENT, Address(bytes(20)))
            self._town.orchestrator(one.name, ORCHESTRATORS + number, terms, worker, one.lie)
        for node in self._town.nodes.values():
            await self._lives.start(self._town.live, node)
        clients = sorted({job.client for job in self._schedule.jobs})
        self._clients = {c: await self._town.client(f"c{c}", CLIENTS + c, self._lives) for c in clients}

    # -- clients -----------------------------------------------------------------------------------------------------

    async def _follow(self, job: Wanted) -> None:
        """One job from gateway to gateway, as the ``bid`` command does it."""
        await trio.sleep_until(job.at)
        followed, client = self._seen.jobs[job.name], self._clients[job.client]
        followed.asked_at = trio.current_time()
        for gateway in job.gateways:
            bid = self._bid(job)
            end = await self._at(client, gateway, bid, job, job.cancel_after)
            followed.ends.append(end)
            self._trace.say(job.name, f"at {gateway}: {told(end.ending)}")
            gone = isinstance(end.ending, str) and end.ending.startswith("UNAVAILABLE")
            full = isinstance(end.ending, Refusal) and end.ending.code in NO_ROOM
            if not (gone or full):
                break
        if job.again and not isinstance(end.ending, str):
            await trio.sleep(1.0)
            again = await self._at(client, end.gateway, bid, job, None)
            followed.again = again.ending

    def _bid(self, job: Wanted) -> Bid:
        units = units_of(job.steps)
        wish = Wish(
            prompt=job.name,
            steps=job.steps,
            limit=units * MIDDLE_PRICE // 10**6 * job.limit_permille // 1000,
            deadline_ms=int(job.deadline_s * 1000),
            prefer=Prefer.PRICE if job.cheap else Prefer.SPEED,
            wait=job.patient,
        )
        return bid_for(wish, ON_OFFER, TEXT_TO_IMAGE, self._chance.randbytes)

    async def _at(self, client: Client, gateway: str, bid: Bid, job: Wanted, cancel_after: float | None) -> End:
        peer = self._town.nodes[gateway].key.peer
        cancelled = trio.Event()

        async def take_back(after: float) -> None:
            await trio.sleep(after)
            cancelled.set()

        async with trio.open_nursery() as nursery:
            if cancel_after is not None:
                nursery.start_soon(take_back, cancel_after)
            ending = await self._ending(client, peer, bid, cancelled)
            nursery.cancel_scope.cancel()
        name = job_id(peer, CheapKey(CLIENTS + job.client).peer, bid.nonce)
        return End(gateway, name, trio.current_time(), ending)

    async def _ending(self, client: Client, gateway: PeerId, bid: Bid, cancelled: trio.Event) -> Ending:
        try:
            return await client.bid(gateway, bid, _deaf, cancelled)
        except GatewayLost as exc:
            return f"GATEWAY_LOST: {exc}"
        except (Unavailable, Refused) as exc:
            return f"UNAVAILABLE: {exc}"
        except PeerFault as exc:
            return f"FAULT: {exc}"

    # -- disturbances ------------------------------------------------------------------------------------------------

    def _arm(self, one: Disturbance, nursery: trio.Nursery) -> None:
        if isinstance(one, Crash) and one.point:
            self._struck.setdefault((one.node, one.point), []).append(one)
        else:
            nursery.start_soon(self._strike, one)

    async def _strike(self, one: Disturbance) -> None:
        await trio.sleep_until(one.at)
        nodes = self._town.nodes
        match one:
            case Crash() if one.node in nodes:
                await self._crash(nodes[one.node], one)
            case Island():
                await self._cut_off(one)
            case Cut() if one.one in nodes and one.other in nodes and nodes[one.one].seat is not None:
                self._disturb(one.name, f"cuts {one.one} from {one.other}", one.one, one.other)
                seat = nodes[one.one].seat
                assert seat is not None
                await seat.disconnect(nodes[one.other].key.peer)
            case Slow() if one.node in nodes:
                peer = nodes[one.node].key.peer
                self._disturb(one.name, f"slows {one.node}", one.node)
                self._world.slow[peer] = one.times
                await trio.sleep(one.lasts_s)
                self._world.slow.pop(peer, None)
            case Stall() if one.node in nodes:
                self._disturb(one.name, f"stalls {one.node}", one.node)
                worker = nodes[one.node].worker
                if isinstance(worker, Worker):
                    worker.die()

    def _disturb(self, name: str, what: str, *nodes: str) -> None:
        self._seen.disturbed.update(nodes)
        self._trace.say(name, what)

    async def _crash(self, node: Node, crash: Crash, after_s: float = 0.0) -> None:
        await trio.sleep(after_s)
        if not node.alive:
            return
        self._disturb(crash.name, f"kills {node.name}", node.name)
        node.kill()
        await self._revive(node, crash)

    async def _revive(self, node: Node, crash: Crash) -> None:
        await node.gone.wait()
        await trio.sleep(crash.away_s)
        if not node.alive:
            await self._lives.start(self._town.live, node)

    def _passed(self, name: str, point: str) -> None:
        """A node came by a named point: whoever waits for it there strikes."""
        count = self._passes[name, point] = self._passes.get((name, point), 0) + 1
        self._trace.say(name, f"passes {point}")
        for crash in self._struck.get((name, point), ()):
            node = self._town.nodes[name]
            if crash.nth == count and crash.after_s:
                self._lives.start_soon(self._crash, node, crash, crash.after_s)
            elif crash.nth == count and node.alive:
                self._disturb(crash.name, f"kills {name}", name)
                node.kill()  # before anything else is done
                self._lives.start_soon(self._revive, node, crash)

    async def _cut_off(self, island: Island) -> None:
        there = [name for name in sorted(island.nodes) if name in self._town.nodes]
        self._disturb(island.name, f"cuts off {' '.join(there)}", *there)
        self._world.isolate(island.name, frozenset(self._town.nodes[name].key.peer for name in there))
        await trio.sleep(island.lasts_s)
        self._world.rejoin(island.name)
        self._trace.say(island.name, "is over")

    async def _raise_all(self) -> None:
        """Whoever is still away comes back, so that all books can be judged."""
        for node in self._town.nodes.values():
            while not node.alive and node.name not in self._seen.fallen:  # noqa: ASYNC110  # no one event says it
                await trio.sleep(0.5)

    # -- ears --------------------------------------------------------------------------------------------------------

    def _heard(self, one: PeerId, other: PeerId, stream: int, data: bytes) -> None:
        names = self._town.names
        self._trace.say(names[one], f"-> {names[other]}", data)
        if _KEY in data or _RESUME in data or _AWARD in data:
            for payload in FrameDecoder(JOB_FRAME).feed(data):
                said = decode(payload, JOB_FRAME)
                if isinstance(said, wire.Delivery | wire.Resume | wire.Award):
                    counts = self._seen.keys[stream, said.job_id, said.attempt]
                    counts[not isinstance(said, wire.Delivery)] += 1


def _deaf(_: BidTaken | JobNews) -> None:
    """News are nothing to this client."""
