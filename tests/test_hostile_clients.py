"""Clients that break rules at a gateway, and gateways that lie to a client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.noop_worker import NoopWorker, blank
from market import bidserver
from market.bid import RESTING_PER_CLIENT, Bid, job_id
from market.bidwire import (
    ArtifactHead,
    AskModels,
    BidCancelled,
    BidTaken,
    CancelBid,
    JobDone,
    JobFailed,
    JobNews,
    ModelsOnOffer,
    News,
    Spent,
    Thanks,
)
from market.client import AFTER_DEADLINE_S, Client, Delivered
from market.gateway import Gateway
from market.hello import Greeter
from market.parcels import MAX_HELD
from market.protocol import BID
from market.receipt import countersign
from market.refusal import Code, Refusal
from p2p.blobs import Chunk, ChunkAck
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.memory import MemoryNetwork, MemoryNode, running
from p2p.peer import PeerId
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import PeerAddrs, Stream
from tests.support.hostile import SPEC, HostileSeller, hear, hung_up, stream_to
from tests.support.market_values import NETWORK, PIPELINE, SETTLEMENT, Key
from tests.support.marketplace import Marketplace, Place, marketplace

# -- clients ---------------------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """A gateway with one seller, and a seat from which a client may say what it likes."""

    market: Marketplace
    gateway: Place
    machine: NoopWorker
    client: Client
    seat: MemoryNode

    @property
    def peer(self) -> PeerId:
        return self.gateway.key.peer

    @property
    def role(self) -> Gateway:
        assert isinstance(self.gateway.role, Gateway)
        return self.gateway.role

    def stream(self, seat: MemoryNode | None = None) -> Any:
        return stream_to(self.market, seat or self.seat, self.peer, BID)

    async def bid(self, **wish: Any) -> Bid:
        return await self.market.bid(self.client, self.peer, **wish)

    @property
    def faults(self) -> list[Exception]:
        return [fault for fault in self.gateway.seat.failures if isinstance(fault, PeerFault)]


@asynccontextmanager
async def desk(folder: Path, step_s: float = 0.0) -> AsyncGenerator[Desk]:
    with trio.fail_after(40):
        async with marketplace(folder) as market:
            gateway, machine = await market.gateway(1), NoopWorker(step_s=step_s)
            await market.orchestrator(2, price=2_000_000, machine=machine)
            yield Desk(market, gateway, machine, *await market.client(3))


async def test_a_nonce_names_one_bid_for_ever(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        bid = await at.bid()
        other = replace(bid, spec=replace(bid.spec, seed=bid.spec.seed ^ 1))
        assert isinstance(await at.client.bid(at.peer, bid, print), Delivered)
        got = await at.client.bid(at.peer, other, print)
        assert isinstance(got, Refusal)
        assert got.code is Code.CONFLICT
        for name in tuple(at.role._runs):
            at.role._forget(name)  # as after ten minutes: what is kept on disk is another job's
        got = await at.client.bid(at.peer, other, print)
        assert isinstance(got, Refusal)
        assert got.code is Code.CONFLICT
        again = await at.client.bid(at.peer, bid, print)
        assert isinstance(again, Delivered)
        assert at.machine.done == 1


async def test_a_finished_job_takes_no_memory_for_long_and_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.gateway.LINGER_S", 0.05)
    monkeypatch.setattr("market.gateway.SWEEP_S", 0.02)
    async with desk(tmp_path) as at:
        bid, dear = await at.bid(), replace(await at.bid(), limit=1)
        first = await at.client.bid(at.peer, bid, print)
        assert isinstance(first, Delivered)
        refused = await at.client.bid(at.peer, dear, print)
        assert isinstance(refused, Refusal)
        with trio.fail_after(20):
            while at.role._runs:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert set(at.role._ended_at) == {job_id(at.peer, at.seat.peer, one.nonce) for one in (bid, dear)}
        again = await at.client.bid(at.peer, bid, print)
        assert isinstance(again, Delivered)
        assert (again.done, again.files) == (first.done, first.files)
        assert at.machine.done == 1
        anew = await at.client.bid(at.peer, dear, print)
        assert isinstance(anew, Refusal)
        assert anew.code is refused.code


async def test_what_cost_its_client_something_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.gateway.LINGER_S", -1.0)
    async with desk(tmp_path) as at:
        bid = await at.bid()
        assert isinstance(await at.client.bid(at.peer, bid, print), Delivered)
        [(name, run)] = at.role._runs.items()
        run.outcome = BidCancelled(name, 7)
        at.role._put_away(name)
        assert at.role._runs == {name: run}


async def test_another_clients_nonce_is_another_job(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        bid = await at.bid()
        thief, _ = await at.market.client(4)
        mine, theirs = await at.client.bid(at.peer, bid, print), await thief.bid(at.peer, bid, print)
        assert isinstance(mine, Delivered)
        assert isinstance(theirs, Delivered)
        assert mine.done.job_id != theirs.done.job_id


async def test_what_does_not_belong_on_a_bid_stream(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        bid = await at.bid()
        for said in (Thanks(b"x" * 32), CancelBid(b"x" * 32), ChunkAck(b"x" * 16, 0)):
            async with at.stream() as stream:
                await stream.send(said)
                assert await hung_up(stream)
        assert len(at.faults) == 3
        async with at.stream() as stream:
            await stream.send(replace(bid, limit=1), bid)  # refused, and the second is not looked at
            assert (await stream.receive(timeout=5)).code is Code.NO_MATCH
            assert await hung_up(stream)
        assert isinstance(await at.client.bid(at.peer, await at.bid(), print), Delivered)


async def test_a_stranger_cancels_nobodys_job(tmp_path: Path) -> None:
    async with desk(tmp_path, step_s=0.01) as at:
        bid, (_, stranger) = await at.bid(steps=20), await at.market.client(4)
        theirs = replace(await at.bid(steps=20), wait=True)
        endings: list[Any] = []

        async def honest() -> None:
            endings.append(await at.client.bid(at.peer, bid, print))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(honest)
            async with at.stream(stranger) as stream:
                await stream.send(theirs)
                await hear(stream, BidTaken)
                await stream.send(CancelBid(job_id(at.peer, at.seat.peer, bid.nonce)))
                assert await hung_up(stream)
        assert isinstance(endings[0], Delivered)
        assert len(at.faults) == 1


async def test_a_flood_of_cancels_is_one(tmp_path: Path) -> None:
    async with desk(tmp_path, step_s=0.02) as at:
        bid = await at.bid(steps=200)
        async with at.stream() as stream:
            await stream.send(bid)
            news = await hear(stream, JobNews)
            while news.event is not News.STEP:
                news = await hear(stream, JobNews)
            (purchase,) = at.role._runs[news.job_id]._purchases
            for _ in range(500):
                await stream.send(CancelBid(news.job_id))
            assert isinstance(await hear(stream, BidCancelled), BidCancelled)
            assert purchase.talk._events.statistics().current_buffer_used < 5


async def test_a_client_has_so_many_open_bids(tmp_path: Path) -> None:
    async with desk(tmp_path, step_s=5) as at:
        bid = await at.bid(wait=True)
        codes = []
        async with trio.open_nursery() as nursery:
            for number in range(RESTING_PER_CLIENT + 1):
                raw = await at.seat.open(at.peer, BID)
                stream = MessageStream(raw, JOB_FRAME)
                await at.market.greeter("client").greet(stream)
                await stream.send(replace(bid, nonce=number.to_bytes(16, "big")))
                codes.append(getattr(await stream.receive(timeout=10), "code", None))
            nursery.cancel_scope.cancel()
        assert codes == [None] * RESTING_PER_CLIENT + [Code.TOO_MANY]
        other, _ = await at.market.client(4)
        assert isinstance(await other.models(at.peer, PIPELINE), ModelsOnOffer)


async def test_results_lie_on_disk_and_wait_for_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bidserver, "HAND_OVER_S", 0.1)
    async with desk(tmp_path) as at:
        bid = await at.bid(width=256, height=256)
        async with at.stream() as stream:
            await stream.send(bid)
            done = await hear(stream, JobDone)  # and no chunk of it is acknowledged
            assert await hung_up(stream)
        run = at.role._runs[done.job_id]
        assert run.over.is_set()
        assert not run._purchases
        assert not any(isinstance(value, bytes) and len(value) > 1000 for value in vars(run).values())
        got = await at.client.bid(at.peer, bid, print)
        assert isinstance(got, Delivered)
        assert got.done == done
        assert at.machine.done == 1


async def test_a_big_book_is_not_counted_for_everybody_who_asks(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        looks = 0
        book = at.role._m.feed.book
        postings = book.postings

        def counted() -> Any:
            nonlocal looks
            looks += 1
            return postings()

        book.postings = counted  # type: ignore[method-assign]
        bidserver_slow = bidserver.LISTED_PER_SECOND
        bidserver.LISTED_PER_SECOND = 1  # as if the one offer were a hundred thousand
        try:
            async with at.stream() as stream:
                for _ in range(50):
                    await stream.send(AskModels(PIPELINE), AskModels("no such pipeline"))
                    assert len((await hear(stream, ModelsOnOffer)).models) == 1
                    assert (await hear(stream, ModelsOnOffer)).models == ()
        finally:
            bidserver.LISTED_PER_SECOND = bidserver_slow
        assert looks <= 2


# -- gateways that lie -----------------------------------------------------------------------------------------------

Act = Callable[["LyingGateway", MessageStream, Bid], Any]
DATA = blank(64, 64)


class LyingGateway:
    """Takes every bid and does ``act`` with it. It has a seller of its own, whose key signs what it likes."""

    def __init__(self, act: Act) -> None:
        self.net, self.key, self.act = MemoryNetwork(), Key(1), act
        self.seller = HostileSeller(None, Key(9), None, None)  # type: ignore[arg-type]
        self.seat, self.ours = self.net.node(self.key), self.net.node(Key(3))
        self.greeter = Greeter(NETWORK, "x", lambda: SETTLEMENT, lambda: 0.0)
        self.bid = Bid(b"n" * 16, SPEC, 1000, 20_000)
        self.name = job_id(self.key.peer, self.ours.peer, self.bid.nonce)

    async def serve(self, raw: Stream) -> None:
        stream = MessageStream(raw, JOB_FRAME)
        await self.greeter.greet(stream)
        bid = await stream.receive()
        await stream.send(BidTaken(self.name, 1000, False, 1000))
        await self.act(self, stream, bid)

    async def tell(self) -> Any:
        """What a client makes of it."""

        async def reach(peer: PeerId) -> None:
            await self.ours.connect(PeerAddrs(self.seat.peer, (self.seat._addr,)))

        async with running(self.seat, self.ours):
            self.seat.serve(BID, self.serve)
            return await Client(self.ours, self.greeter, reach).bid(self.key.peer, self.bid, lambda news: None)

    def done(self, data: bytes = DATA, **changes: Any) -> JobDone:
        """An outcome as it should be, but for ``changes`` of the Receipt."""
        award = replace(self.seller.sold_to(self.key.peer), job_id=self.name, price=900)
        signer = changes.pop("countersigned_by", self.key)
        receipt = countersign(self.seller.receipt(award, [data], self.key.peer, **changes), signer)
        head = ArtifactHead(sha256(data).digest()[:16], "image/png", len(data), sha256(data).digest())
        us = self.seller.key.peer
        return JobDone(self.name, us, (us,), 900, 900, 1000, Spent(0, 0, 0, 0), receipt, (head,))


async def _send_all(stream: MessageStream, data: bytes) -> None:
    digest = sha256(data).digest()
    await stream.send(Chunk(digest[:16], 0, digest, data))
    while await stream.receive() is not None:
        pass


async def test_a_true_result_is_taken() -> None:
    async def act(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        await stream.send(gateway.done())
        await _send_all(stream, DATA)

    got = await LyingGateway(act).tell()
    assert isinstance(got, Delivered)
    assert got.files == (DATA,)


@pytest.mark.parametrize(
    "lie",
    [
        {"job_id": b"x" * 32},
        {"spec": b"x" * 32},
        {"seed": 8},
        {"price": 1001},
        {"gateway": Key(7).peer, "sender": Key(7).address, "countersigned_by": Key(7)},
        {"countersigned_by": Key(7)},
        {"orchestrator": Key(7).peer},
    ],
    ids=lambda lie: "+".join(lie),
)
async def test_lies_in_a_countersigned_receipt(lie: dict[str, Any]) -> None:
    async def act(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        await stream.send(gateway.done(**lie))
        await _send_all(stream, DATA)

    with pytest.raises(PeerFault):
        await LyingGateway(act).tell()


async def test_other_limits_and_other_files() -> None:
    async def dear(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        await stream.send(replace(gateway.done(), limit=2000))
        await _send_all(stream, DATA)

    async def other_bytes(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        done = gateway.done()
        await stream.send(done)
        wrong = bytes(len(DATA))
        await stream.send(Chunk(done.artifacts[0].blob, 0, sha256(wrong).digest(), wrong))
        await stream.receive()

    async def other_file(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        other = blank(64, 128)
        head = ArtifactHead(sha256(other).digest()[:16], "image/png", len(other), sha256(other).digest())
        await stream.send(replace(gateway.done(), artifacts=(head,)))
        await _send_all(stream, other)

    async def other_job(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        await stream.send(JobNews(b"x" * 32, News.STEP))

    for act in (dear, other_bytes, other_file, other_job):
        with pytest.raises(PeerFault):
            await LyingGateway(act).tell()


async def test_a_huge_result_is_refused_before_a_byte_of_it_is_taken() -> None:
    async def act(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        head = replace(gateway.done().artifacts[0], size=MAX_HELD + 1)
        await stream.send(replace(gateway.done(), artifacts=(head,)))
        await stream.receive()

    with pytest.raises(Refused):
        await LyingGateway(act).tell()


@pytest.mark.parametrize("kind", ["silent", "news", "hanging up", "chunks"])
async def test_a_gateway_that_comes_to_no_end(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    async def act(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        if kind == "silent":
            await trio.sleep_forever()
        while kind == "news":
            await stream.send(JobNews(gateway.name, News.STEP, None, 1, 1))
            await trio.sleep(1)
        if kind == "chunks":
            data = bytes(1000)
            big = replace(gateway.done().artifacts[0], digest=b"d" * 32, blob=b"d" * 16, size=2**20 + 1000)
            await stream.send(replace(gateway.done(), artifacts=(big,)))
            while True:  # the same one again and again
                await stream.send(Chunk(b"d" * 16, 1, sha256(data).digest(), data))
                await trio.sleep(1)

    before = trio.current_time()
    with pytest.raises(Unavailable):
        await LyingGateway(act).tell()
    assert trio.current_time() - before == pytest.approx(20 + AFTER_DEADLINE_S, abs=1)


async def test_words_for_a_terminal_move_no_cursor() -> None:
    async def act(gateway: LyingGateway, stream: MessageStream, bid: Bid) -> None:
        await stream.send(JobFailed(gateway.name, "FAILED", "\x1b[2Jall is well\r\n", (), 0))

    got = await LyingGateway(act).tell()
    assert isinstance(got, JobFailed)
    assert got.hint == "?[2Jall is well??"
