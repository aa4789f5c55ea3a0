"""Leaves over the network: who may ask, how often, and what a hostile seller may answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from compute.capability import Dtype
from compute.evidence import MAX_SHOWN_BYTES
from compute.trace import MAX_LEAF, TraceLeaf, verify_leaf
from market.checks import ask_for, read_case
from market.client import Delivered
from market.protocol import TRACE
from market.receipt import Receipt
from market.tracedesk import ASKS_BURST, JOB_BURST, ask_leaves, from_machine
from market.tracewire import LeafHead, LeafPart, TraceAsk, TraceRefusal
from p2p.envelope import sign
from p2p.errors import MalformedMessage, PasarError, PeerFault, Refused, Unavailable
from p2p.memory import MemoryNode
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Stream
from tests.support.market_values import Key
from tests.support.marketplace import Marketplace, Place, marketplace


@dataclass
class Scene:
    market: Marketplace
    gateway: Place
    seller: Place
    seat: MemoryNode
    ask: TraceAsk
    receipt: Receipt

    async def opened(self, ask: TraceAsk, of: Place | None = None) -> tuple[TraceLeaf, ...]:
        peer = (of or self.seller).key.peer
        reach: Any = self.market.reach(self.seat)
        return await ask_leaves(self.seat, self.market.greeter("client"), reach, peer, ask)


@asynccontextmanager
async def scene(folder: Path) -> AsyncGenerator[Scene]:
    with trio.fail_after(60):
        async with marketplace(folder) as market:
            gateway = await market.gateway(1)
            seller = await market.orchestrator(2, price=2_000_000)
            client, seat = await market.client(3)
            bid = await market.bid(client, gateway.key.peer)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Delivered)
            case = read_case(got.done.receipt, got.files, bid.spec, ())
            yield Scene(market, gateway, seller, seat, ask_for(case, (1,)), case.receipt)


@pytest.mark.parametrize("through_gateway", [False, True])
async def test_leaves_open_to_the_signed_root(tmp_path: Path, through_gateway: bool) -> None:
    async with scene(tmp_path) as s:
        leaves = await s.opened(s.ask, s.gateway if through_gateway else s.seller)
        assert [leaf.index for leaf in leaves] == [0, 1, 2, 4]
        root = s.receipt.trace_root
        assert root is not None
        assert all(verify_leaf(root, s.receipt.job_id, s.receipt.steps, leaf) for leaf in leaves)


async def test_only_who_has_the_receipt_and_the_salted_spec_may_ask(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        guessed = replace(s.ask, spec=replace(s.ask.spec, salt=b"x" * 16))
        forged = replace(s.ask, receipt=sign(s.receipt, Key(9)))
        for bad in (guessed, forged):
            with pytest.raises((Unavailable, PeerFault)):
                await s.opened(bad)
        assert len(s.seller.seat.failures) == 2
        other = sign(replace(s.receipt, orchestrator=Key(9).peer), Key(9))
        with pytest.raises(Refused, match="not a job of this node"):
            await s.opened(replace(s.ask, receipt=other))
        with pytest.raises(Refused, match="NO_LEAF"):
            await s.opened(replace(s.ask, indexes=(0, s.receipt.steps + 1)))
        assert await s.opened(s.ask)


async def test_asks_are_bounded_by_peer_and_by_job(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        for _ in range(int(min(ASKS_BURST, JOB_BURST))):
            await s.opened(s.ask)
        with pytest.raises(Refused, match="TOO_MANY"):
            await s.opened(s.ask)


Answer = Callable[[MessageStream, TraceAsk], Any]


async def _garbage(stream: MessageStream, ask: TraceAsk) -> None:
    await stream._stream.send(b"\0\0\0\x04\xff\xff\xff\xff")


async def _another_leaf(stream: MessageStream, ask: TraceAsk) -> None:
    await stream.send(LeafHead(3, 1, Dtype.FP32, 1, ()), LeafPart(b"x"))


async def _more_than_said(stream: MessageStream, ask: TraceAsk) -> None:
    await stream.send(LeafHead(0, 1, Dtype.FP32, 1, ()), LeafPart(b"xx"))


async def _less_than_said(stream: MessageStream, ask: TraceAsk) -> None:
    await stream.send(LeafHead(0, 1, Dtype.FP32, 9, ()), LeafPart(b"x"))


async def _giants(stream: MessageStream, ask: TraceAsk) -> None:
    for index in ask.indexes:
        await stream.send(LeafHead(index, 1, Dtype.FP32, MAX_LEAF, ()))
        for _ in range(MAX_LEAF // 2**20):
            await stream.send(LeafPart(b"\0" * 2**20))


async def _heads_alone(stream: MessageStream, ask: TraceAsk) -> None:
    for _ in range(3):
        await stream.send(LeafHead(0, 1, Dtype.FP32, 1, ()))


async def _refusal(stream: MessageStream, ask: TraceAsk) -> None:
    await stream.send(TraceRefusal("BUSY", "later"))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (_garbage, MalformedMessage),
        (_another_leaf, MalformedMessage),
        (_more_than_said, MalformedMessage),
        (_less_than_said, Unavailable),
        (_heads_alone, MalformedMessage),
        (_giants, Refused),
        (_refusal, Refused),
    ],
)
async def test_every_false_answer_is_a_typed_failure(tmp_path: Path, answer: Answer, kind: type[PasarError]) -> None:
    async with scene(tmp_path) as s:

        async def accept(raw: Stream) -> None:
            stream = MessageStream(raw, JOB_FRAME)
            await s.market.greeter("orchestrator").greet(stream)
            ask = await stream.receive()
            with trio.move_on_after(5):
                await answer(stream, ask)
                await stream.aclose()

        s.seller.seat.serve(TRACE, accept)
        many = tuple(range(MAX_SHOWN_BYTES // MAX_LEAF + 1)) if answer is _giants else s.ask.indexes
        with pytest.raises(kind):
            await s.opened(replace(s.ask, indexes=many))
        if answer is not _giants:  # whose leaves the job does not have
            with pytest.raises(Refused):
                await s.opened(s.ask, s.gateway)


class Huge(NoopWorker):
    """Has kept more than may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        self.opened += len(indexes)
        return tuple(TraceLeaf(index, 1, Dtype.FP32, bytes(MAX_LEAF), ()) for index in indexes)


async def test_a_desk_reads_no_more_bytes_than_a_check_shows(tmp_path: Path) -> None:
    async with scene(tmp_path) as s:
        machine, most = Huge(), MAX_SHOWN_BYTES // MAX_LEAF
        with pytest.raises(Refused, match="LEAVES_TOO_LARGE"):
            await from_machine(machine)(replace(s.ask, indexes=tuple(range(2 * most))), s.receipt)
        assert machine.opened == most + 1
