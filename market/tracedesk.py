"""TraceDesk: opens leaves of committed traces to whoever may ask, and ``ask_leaves``, the other end of it.

A seller opens what its machine keeps; a gateway passes on what the sellers of its own jobs open, for clients that reach
nobody else. An ask is paid for by nobody, so it is bounded: how often each peer asks, how often for one job, how many
asks are answered at a time, how many bytes leave for one. An opening that cannot be had is the checker's finding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from compute.evidence import MAX_SHOWN_BYTES
from compute.trace import TraceLeaf
from compute.work import Machine
from market.hello import Greeter
from market.protocol import TRACE
from market.receipt import Receipt
from market.tracewire import PART, LeafHead, LeafPart, TraceAsk, TraceRefusal, opened_ask
from p2p.admission import RateLimit
from p2p.errors import MalformedMessage, PeerFault, Refused, Unavailable, UnknownMessage
from p2p.peer import PeerId, peer_text
from p2p.scores import Fault
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Network, Stream

log = structlog.get_logger(__name__)

ASKS_PER_SECOND, ASKS_BURST = 0.5, 8.0  # of one peer
JOB_PER_SECOND, JOB_BURST = 1 / 60, 8.0  # about one job, whoever asks
ANSWERED_AT_ONCE = 2
ASK_S = 10.0
ANSWER_S = 60.0  # all leaves of one ask
WRITE_S = 20.0  # one leaf of 4 MiB, for a peer that does not read

Opens = Callable[[TraceAsk, Receipt], Awaitable[Sequence[TraceLeaf]]]
Reach = Callable[[PeerId], Awaitable[None]]


class TraceDesk:
    """``ours`` says of a Receipt whether we are the one to answer for it; ``opens`` finds its leaves."""

    def __init__(self, network: Network, greeter: Greeter, ours: Callable[[Receipt], bool], opens: Opens) -> None:
        self._network, self._greeter, self._ours, self._opens = network, greeter, ours, opens
        self._asks, self._jobs = RateLimit(ASKS_PER_SECOND, ASKS_BURST), RateLimit(JOB_PER_SECOND, JOB_BURST)
        self._places = trio.CapacityLimiter(ANSWERED_AT_ONCE)

    def serve(self) -> None:
        """Answer from now on."""
        self._network.serve(TRACE, self._accept)

    async def _accept(self, raw: Stream) -> None:
        stream = MessageStream(raw, JOB_FRAME)
        try:
            await self._greeter.greet(stream)
            ask = await stream.receive(timeout=ASK_S)
            if not isinstance(ask, TraceAsk):
                raise PeerFault(f"{type(ask).__name__} on a trace stream")
            try:
                await self._answer(stream, ask)
            except Refused as exc:
                await stream.send(TraceRefusal(exc.code[:48], exc.hint[:50]))
            await stream.aclose()
        except (Refused, Unavailable, UnknownMessage) as exc:
            log.debug("trace stream ended", peer=peer_text(raw.peer), reason=str(exc))
            await stream.reset()

    async def _answer(self, stream: MessageStream, ask: TraceAsk) -> None:
        now = trio.current_time()
        if not self._asks.allow(stream.peer, now):  # before signatures are looked at
            raise Refused("TOO_MANY", "leaves are asked for now and then")
        receipt = opened_ask(ask)
        if not self._ours(receipt):
            raise Refused("NO_TRACE", "not a job of this node")
        if not self._jobs.allow(receipt.job_id, now):
            raise Refused("TOO_MANY", "this job was asked about often enough")
        async with self._places:
            for leaf in await self._opens(ask, receipt):
                with trio.move_on_after(WRITE_S) as writing:
                    await _send(stream, leaf)
                if writing.cancelled_caught:
                    raise Unavailable("the asker does not read what it asked for")
        log.info("leaves opened", job=receipt.job_id.hex()[:16], leaves=len(ask.indexes))


def from_machine(machine: Machine) -> Opens:
    """Leaves that this seller's own machine keeps, read one after the other while they are few enough to leave."""

    async def opens(ask: TraceAsk, receipt: Receipt) -> Sequence[TraceLeaf]:
        leaves: list[TraceLeaf] = []
        for index in ask.indexes:
            leaves += await machine.open_trace(receipt.job_id, (index,))
            _bound(sum(len(leaf.raw) for leaf in leaves))
        return leaves

    return opens


def from_seller(network: Network, greeter: Greeter, reach: Reach) -> Opens:
    """Leaves that the seller of one of this gateway's jobs opens."""

    async def opens(ask: TraceAsk, receipt: Receipt) -> Sequence[TraceLeaf]:
        try:
            return await ask_leaves(network, greeter, reach, receipt.orchestrator, ask)
        except PeerFault as fault:
            network.report(receipt.orchestrator, Fault.PROTOCOL, str(fault))
            raise Refused("NO_OPENING", "its seller answers with what is none") from fault
        except Unavailable as exc:
            raise Refused("NO_OPENING", str(exc)[:100]) from exc

    return opens


async def ask_leaves(
    network: Network, greeter: Greeter, reach: Reach, peer: PeerId, ask: TraceAsk
) -> tuple[TraceLeaf, ...]:
    """What ``peer`` opens; nothing of it is proved yet. Raises Unavailable, Refused, PeerFault."""
    with trio.move_on_after(ANSWER_S):
        await reach(peer)
        async with MessageStream(await network.open(peer, TRACE), JOB_FRAME) as stream:
            await greeter.say(stream, ask)
            await greeter.hear(stream)
            leaves: list[TraceLeaf] = []
            for index in ask.indexes:
                leaves.append(await _receive(stream, index, sum(len(leaf.raw) for leaf in leaves)))
            return tuple(leaves)
    raise Unavailable("the leaves did not come in time")


async def _send(stream: MessageStream, leaf: TraceLeaf) -> None:
    await stream.send(LeafHead(leaf.index, leaf.timestep, leaf.dtype, len(leaf.raw), leaf.path))
    for at in range(0, len(leaf.raw), PART):
        await stream.send(LeafPart(leaf.raw[at : at + PART]))


async def _receive(stream: MessageStream, index: int, before: int) -> TraceLeaf:
    head = await stream.receive()
    if head is None:
        raise Unavailable("the peer hung up before all leaves were here")
    if isinstance(head, TraceRefusal):
        raise Refused(head.code, head.hint)
    if not isinstance(head, LeafHead) or head.index != index:
        raise MalformedMessage("not the leaf that was asked for")
    _bound(before + head.size)
    raw = bytearray()
    while len(raw) < head.size:
        part = await stream.receive()
        if not isinstance(part, LeafPart):
            raise Unavailable("the peer hung up in a leaf") if part is None else MalformedMessage("no part of a leaf")
        raw += part.data
    if len(raw) != head.size:
        raise MalformedMessage("more bytes than the leaf has")
    return TraceLeaf(head.index, head.timestep, head.dtype, bytes(raw), head.path)


def _bound(size: int) -> None:
    """Raises Refused for more than one check may show."""
    if size > MAX_SHOWN_BYTES:
        raise Refused("LEAVES_TOO_LARGE", "bytes of latents in one check", have=MAX_SHOWN_BYTES, need=size)
