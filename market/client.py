"""Client: the light end of the market. One bid to a gateway, followed to its result, which it checks alone.

It knows no offer, no chain and no ticket: it names a job, a limit and a deadline, and trusts nothing of what comes
back before digests and signatures agree. A stream that breaks is opened again and picks the same job up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from compute.spec import DENOISED, MAX_GUIDANCE, Input, JobShape, JobSpec, Option, Verification
from market.bid import Bid, Prefer, job_id
from market.bidwire import (
    AskModels,
    BidCancelled,
    BidTaken,
    CancelBid,
    JobDone,
    JobFailed,
    JobNews,
    JobPreview,
    ModelOnOffer,
    ModelsOnOffer,
    SendInputs,
    Thanks,
)
from market.conversation import closing
from market.hello import Greeter
from market.jobinputs import refs_of
from market.jobwire import BlobRef
from market.parcels import Parcels
from market.protocol import BID
from market.receipt import NotVerified, Receipt, verify_receipt
from market.refusal import Code, Excluded, Refusal, Rule
from p2p.blobs import Chunk, ChunkAck
from p2p.codec import encode
from p2p.errors import MalformedMessage, Misconfigured, PasarError, PeerFault, Unavailable
from p2p.peer import PeerId
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Network

log = structlog.get_logger(__name__)

ANSWER_S = 15.0
REDIAL_S = 0.5
AFTER_DEADLINE_S = 90.0  # a result sealed in time may still be on its way
KEPT_S = 45.0  # that a stream is good for a bid; gateways wait a minute for one
GONE_S = 20.0  # how long after the deadline, or after taking the bid back, a gateway may stay unreachable

Tell = Callable[[BidTaken | JobNews], None]
Show = Callable[[JobPreview], None]
Chance = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for, before anything is known of the market. 0 or None: whatever is usual for the model."""

    prompt: str
    negative_prompt: str = ""
    width: int = 0
    height: int = 0
    steps: int = 20
    guidance: int = 4000
    seed: int | None = None
    model: str | None = None
    limit: int = 0
    deadline_ms: int = 120_000
    price_of_time: int | None = None
    prefer: Prefer = Prefer.SPEED
    wait: bool = False
    length: int = 0
    inputs: tuple[Input, ...] = ()
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """A result that checked: every digest, both signatures on its Receipt, the spec. ``files`` are its plain bytes."""

    bid: Bid
    done: JobDone
    files: tuple[bytes, ...]
    receipt: Receipt


class GatewayLost(Unavailable):
    """The gateway took the bid and is gone: whether it was charged is known when it is back under the same bid."""


Ending = Delivered | Refusal | JobFailed | BidCancelled


def bid_for(wish: Wish, model: ModelOnOffer, pipeline: str, chance: Chance) -> Bid:
    """The bid that says this wish for this model. Raises Misconfigured where the wish is none."""
    if not 0 <= wish.guidance <= MAX_GUIDANCE:
        raise Misconfigured(f"guidance is between 0 and {MAX_GUIDANCE // 1000}")
    seed = int.from_bytes(chance(4), "big") if wish.seed is None else wish.seed
    width, height = wish.width or model.native_side, wish.height or model.native_side
    try:
        shape = JobShape(
            pipeline,
            model.model,
            width,
            height,
            wish.steps,
            wish.guidance > 1000,
            verification=Verification.TRACE if pipeline in DENOISED else Verification.RECEIPT,
            input_bytes=sum(file.size for file in wish.inputs),
            length=wish.length,
        )
        spec = JobSpec(
            shape, wish.prompt, wish.negative_prompt, wish.guidance, seed, chance(16), wish.inputs, wish.options
        )
    except ValueError as exc:
        raise Misconfigured(str(exc)) from exc
    bid = Bid(
        nonce=chance(16),
        spec=spec,
        limit=wish.limit,
        deadline_ms=wish.deadline_ms,
        price_of_time=wish.price_of_time,
        prefer=wish.prefer,
        wait=wish.wait,
    )
    try:
        encode(bid)
    except ValueError as exc:  # beyond what any market serves
        raise Misconfigured(str(exc).removeprefix("bid v2: ")) from exc
    return bid


def check_wish(wish: Wish, pipeline: str) -> None:
    """Raise Misconfigured for a wish that no market could serve, before anybody is asked."""
    bid_for(wish, ModelOnOffer("any", bytes(32), 64, 64, 1, 0, 0, 0), pipeline, bytes)


def choose_model(offered: ModelsOnOffer, wish: Wish) -> ModelOnOffer | Refusal:
    """The model of the wished name (or the head of its hash), or the most offered one; else why there is none."""
    name = wish.model
    for model in offered.models:
        if name is None or model.name == name or (len(name) >= 8 and model.model.hex().startswith(name)):
            return model
    if not offered.models:
        return Refusal(Code.NO_OFFERS, 0, (), 0, wish.limit, f"nobody offers {offered.pipeline[:64]} here now")
    offers = sum(model.offers for model in offered.models)
    known = ", ".join(model.name for model in offered.models)[:200]
    hint = f"nobody offers the model {(name or '')[:64]!r} now; on offer: {_printable(known)}"
    return Refusal(Code.NO_MATCH, offers, (Excluded(Rule.MODEL, offers),), 0, wish.limit, hint)


def _printable(text: str) -> str:
    """What a gateway says, without what would move a terminal's cursor."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


class Client:
    """Bids one after the other or many together; each has a stream of its own."""

    def __init__(self, network: Network, greeter: Greeter, reach: Callable[[PeerId], Awaitable[None]]) -> None:
        self._network, self._greeter, self._reach = network, greeter, reach
        self._kept: dict[PeerId, tuple[float, MessageStream]] = {}  # on which models were asked, for the bid to come

    async def models(self, gateway: PeerId, pipeline: str) -> ModelsOnOffer:
        """What this gateway's book has for a pipeline. Raises Unavailable, Refused, PeerFault.

        The stream is kept for a bid that comes soon.
        """
        stream = await self._open(gateway, AskModels(pipeline))
        try:
            await self._greeter.hear(stream)
            answer = await stream.receive(timeout=ANSWER_S)
        except BaseException:
            await closing(stream)
            raise
        if not isinstance(answer, ModelsOnOffer):
            await closing(stream)
            raise Unavailable("the gateway does not say what is on offer")
        earlier = self._kept.pop(gateway, None)
        self._kept[gateway] = trio.current_time(), stream
        if earlier is not None:
            await closing(earlier[1])
        return answer

    async def bid(
        self,
        gateway: PeerId,
        bid: Bid,
        tell: Tell,
        cancelled: trio.Event | None = None,
        files: Sequence[bytes] = (),
        show: Show = lambda preview: None,
    ) -> Ending:
        """Follow ``bid`` to its end. Setting ``cancelled`` takes it back. ``files`` are the bytes of its inputs.

        ``show`` gets previews as they come, unchecked, where the bid asks for some.

        Raises Misconfigured for other files than the bid names, Unavailable when the gateway does not take it,
        GatewayLost when it took it and stays gone, or comes to no end; Refused when its result is larger than we hold,
        PeerFault when what it delivers does not check.
        """
        stop = trio.Event() if cancelled is None else cancelled
        follow = _Follow(self._network.peer, gateway, bid, tell, show, stop, files)
        deadline = trio.current_time() + bid.deadline_ms / 1000
        with trio.move_on_at(deadline + AFTER_DEADLINE_S):
            try:
                if (stream := await self._on_kept(gateway, bid)) is not None:
                    async with stream:
                        return await follow.run(stream)
            except Unavailable as exc:  # it was lost while nobody looked; the same bid again is the same job
                log.debug("a kept stream was lost", reason=str(exc))
            while True:
                try:
                    async with await self._open(gateway, bid) as stream:
                        await self._greeter.hear(stream)
                        follow.gone_since = None
                        return await follow.run(stream)
                except Unavailable as exc:
                    if not follow.taken:
                        raise
                    follow.gone(str(exc), deadline)
                await trio.sleep(REDIAL_S)
        raise GatewayLost("the gateway came to no end long after the deadline")

    async def _on_kept(self, gateway: PeerId, bid: Bid) -> MessageStream | None:
        """Say ``bid`` on the stream on which models were asked a moment ago; None without one."""
        at, stream = self._kept.pop(gateway, (0.0, None))
        if stream is None:
            return None
        try:
            if trio.current_time() - at < KEPT_S:
                await stream.send(bid)
                return stream
        except Unavailable as exc:
            log.debug("a kept stream was lost", reason=str(exc))
        await closing(stream)
        return None

    async def _open(self, gateway: PeerId, first: AskModels | Bid) -> MessageStream:
        """A stream on which our hello and ``first`` are said; the gateway's hello is still to come."""
        await self._reach(gateway)
        stream = MessageStream(await self._network.open(gateway, BID), JOB_FRAME)
        await self._greeter.say(stream, first)
        return stream


class _Follow:
    """One bid over one stream after another; what was received on an earlier one counts."""

    def __init__(
        self,
        us: PeerId,
        gateway: PeerId,
        bid: Bid,
        tell: Tell,
        show: Show,
        cancelled: trio.Event,
        files: Sequence[bytes],
    ) -> None:
        self._bid, self._tell, self._show, self._cancelled = bid, tell, show, cancelled
        self._gateway, self._job_id = gateway, job_id(gateway, us, bid.nonce)
        self._parcels, self._sent = Parcels(), Parcels()
        if [file.size for file in bid.spec.inputs] != [len(data) for data in files]:
            raise Misconfigured("the files are not those that the bid names")
        for ref, data in zip(refs_of(bid.spec), files, strict=True):
            self._sent.offer(ref, data)
        self.taken = False
        self.gone_since: float | None = None

    def gone(self, reason: str, deadline: float) -> None:
        """Note that the gateway cannot be reached. Raises GatewayLost when that lasts too long."""
        now = trio.current_time()
        if self.gone_since is None:
            self.gone_since = now
            log.warning("the gateway is gone; trying again", reason=reason)
        since = self.gone_since if self._cancelled.is_set() else max(self.gone_since, deadline)
        if now - since > GONE_S:
            raise GatewayLost("the gateway took the bid and is gone; the same gateway knows what was charged")

    async def run(self, stream: MessageStream) -> Ending:
        """Until there is an ending, on a stream that the bid was said on. Raises Unavailable when it breaks first."""
        endings: list[Ending] = []
        broken: list[PasarError] = []

        async def hear() -> None:
            try:
                endings.append(await self._hear(stream, nursery))
            except PasarError as exc:
                broken.append(exc)
            nursery.cancel_scope.cancel()

        async def take_back() -> None:
            await self._cancelled.wait()
            try:
                await stream.send(CancelBid(self._job_id))
            except Unavailable as exc:
                log.debug("cancel not sent", reason=str(exc))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_back)
            nursery.start_soon(hear)
        if not endings:
            raise broken.pop()
        if isinstance(endings[0], Delivered):
            try:
                await stream.send(Thanks(self._job_id))
                await closing(stream)
            except Unavailable as exc:
                log.debug("no thanks", reason=str(exc))
        return endings[0]

    async def _send(self, stream: MessageStream, blob: bytes, have: bytes) -> None:
        """One input; a stream that breaks meanwhile is noticed by who reads it."""
        try:
            await self._sent.send(stream, blob, have)
        except PasarError as exc:
            log.debug("an input was not sent", reason=str(exc))

    async def _hear(self, stream: MessageStream, nursery: trio.Nursery) -> Ending:
        while (said := await stream.receive()) is not None:
            named = getattr(said, "job_id", self._job_id)
            if named != self._job_id:
                raise MalformedMessage("news of another job")
            match said:
                case Refusal() | JobFailed():
                    return replace(said, hint=_printable(said.hint))
                case BidCancelled():
                    return said
                case BidTaken():
                    self.taken = True
                    self._tell(said)
                case JobNews():
                    self._tell(said)
                case JobPreview():
                    self._show(said)
                case SendInputs():
                    have = {one.blob: one.chunks for one in said.have}
                    for file in refs_of(self._bid.spec):
                        nursery.start_soon(self._send, stream, file.blob, have.get(file.blob, b""))
                case ChunkAck():
                    self._sent.acked(said)
                case JobDone():
                    return await self._collect(stream, said)
                case _:
                    raise MalformedMessage(f"{type(said).__name__} on a bid stream")
        raise Unavailable("the gateway hung up")

    async def _collect(self, stream: MessageStream, done: JobDone) -> Delivered:
        """The files, chunk by chunk; then every check that needs nobody else. Raises PeerFault."""
        refs = [BlobRef(head.digest, head.size) for head in done.artifacts]
        missing = {ref.blob for ref in refs if not self._parcels.expect(ref)}
        while missing:
            chunk = await stream.receive(timeout=ANSWER_S)
            if chunk is None:
                raise Unavailable("the gateway hung up before the whole result was here")
            if not isinstance(chunk, Chunk):
                raise MalformedMessage(f"{type(chunk).__name__} in the middle of a result")
            ack, whole = self._parcels.take(chunk)
            await stream.send(ack)
            if whole:
                missing.discard(chunk.blob)
        files = tuple(data for ref in refs if (data := self._parcels.get(ref)) is not None)
        checked = verify_receipt(done.receipt, files, self._bid.spec)
        if isinstance(checked, NotVerified):
            raise PeerFault("; ".join(found.text for found in checked.problems))
        inside = checked.receipt
        named = (inside.job_id, inside.gateway, inside.orchestrator)
        if named != (self._job_id, self._gateway, done.orchestrator):
            raise PeerFault("the Receipt is about another job")
        if inside.price > done.limit or (self._bid.limit and done.limit != self._bid.limit):
            raise PeerFault("the result costs more than the limit")
        return Delivered(self._bid, done, files, inside)
