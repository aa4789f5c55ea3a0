"""Peers with a valid key that break rules: raw streams, quotes and awards made by hand, a seller that lies."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import trio
import trio.testing

from benchmarks.noop_worker import MODEL, blank
from compute.spec import JobShape, JobSpec, Verification
from ledger.account import Account, Pair
from ledger.cover import Cover
from ledger.journal import Journal
from ledger.money import ETH
from ledger.sending import SendingBooks
from ledger.ticket import CERTAIN, Payment, PaymentVerdict, TicketCode, TicketParams, payment_digest
from market import jobwire as wire
from market.offer import Offer
from market.protocol import CONTROL, JOB, offers_topic
from market.quote import RFQ, Quote, late_rate_for
from market.receipt import PROTOCOL, Receipt, Times, digests_of
from market.sealing import context, seal, sealed_artifact
from market.session.money import payment_id
from p2p.blobs import CHUNK, Chunk, ChunkAck
from p2p.codec import decode_as, encode
from p2p.envelope import Signed, open_signed, sign
from p2p.errors import PasarError
from p2p.memory import MemoryNode
from p2p.peer import PeerId, address_of
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import PeerAddrs, Stream
from tests.support.market_values import NETWORK, PIPELINE, SETTLEMENT, Key, model_offer, offer
from tests.support.marketplace import Marketplace

SHAPE = JobShape(PIPELINE, MODEL, 64, 64, 4, guided=True)
SPEC = JobSpec(SHAPE, "a red circle", "", 4000, 7, b"s" * 16)
SECRET = b"k" * 32


@asynccontextmanager
async def stream_to(
    market: Marketplace, seat: MemoryNode, peer: PeerId, protocol: str
) -> AsyncGenerator[MessageStream]:
    """A greeted stream, closed with the block."""
    await market.reach(seat)(peer)  # type: ignore[misc]
    raw = await seat.open(peer, protocol)
    stream = MessageStream(raw, JOB_FRAME if protocol != CONTROL else 256 * 1024)
    try:
        await market.greeter("hostile").greet(stream)
        yield stream
    finally:
        with trio.CancelScope(shield=True):
            await stream.reset()


async def hung_up(stream: MessageStream) -> bool:
    """Whether the other side ended the stream, whatever it said before."""
    try:
        while await stream.receive(timeout=5) is not None:
            pass
    except PasarError as exc:
        if "silent" in str(exc):
            return False
    await trio.testing.wait_all_tasks_blocked()  # until it is written down why
    return True


async def hear(stream: MessageStream, kind: type) -> Any:
    """The next message of this kind; what comes before it is passed over."""
    while (said := await stream.receive(timeout=5)) is not None:
        if isinstance(said, kind):
            return said
    raise AssertionError(f"no {kind.__name__} before the end")


@dataclass
class HostileGateway:
    """A buyer's key on a seat of its own; it asks and awards as it likes."""

    market: Marketplace
    key: Key
    seat: MemoryNode
    nonces: int = 0
    books: SendingBooks | None = None

    @classmethod
    async def join(cls, market: Marketplace, number: int, nursery: trio.Nursery) -> HostileGateway:
        key = Key(number)
        seat = market.net.node(key)
        await nursery.start(seat.run)
        return cls(market, key, seat)

    async def fund(self, nursery: trio.Nursery, folder: Path) -> None:
        """Have a deposit, and books to sign tickets from."""
        self.market.cover.covers[self.key.address] = Cover(ETH, ETH)
        journal = Journal(folder / "hostile.db")
        await nursery.start(journal.run)
        self.books = SendingBooks(journal, self.key, SETTLEMENT, self.market.cover)
        await self.books.load()

    async def tickets(self, award: wire.Award, amount: int, params: bytes, ordinal: int = 0) -> wire.Tickets:
        """A payment for an attempt, as an honest gateway would make it."""
        assert self.books is not None
        name = payment_id(award.job_id, award.attempt, ordinal)
        seller = address_of(open_signed(award.quote, Quote)[0].seller)
        payment = await self.books.pay(name, seller, amount, decode_as(TicketParams, params), job_id=award.job_id)
        return wire.Tickets(award.job_id, award.attempt, name, encode(payment))

    def rfq(self, **changes: Any) -> RFQ:
        self.nonces += 1
        nonce = self.key.address[:8] + self.nonces.to_bytes(8, "big")
        return replace(RFQ(nonce, NETWORK, SETTLEMENT, SHAPE, 2000), **changes)

    async def ask(self, seller: PeerId, rfq: RFQ | None = None) -> Any:
        """The answer to an RFQ: Signed, or a refusal."""
        async with stream_to(self.market, self.seat, seller, CONTROL) as stream:
            await stream.send(rfq or self.rfq())
            return await stream.receive(timeout=5)

    def award(self, signed: Signed, number: int = 1, **changes: Any) -> wire.Award:
        """The award that takes a quote, as an honest gateway would send it."""
        quote, _ = open_signed(signed, Quote)
        job = number.to_bytes(32, "big")
        plain = wire.Award(
            job, 1, SETTLEMENT, signed, quote.price, quote.finish_by_ms, quote.late_rate, 20_000, 0, SPEC
        )
        return replace(plain, **changes)

    async def send(self, seller: PeerId, said: Any) -> Any:
        """What is answered to one message that opens a job stream; None when the stream was ended."""
        async with stream_to(self.market, self.seat, seller, JOB) as stream:
            await stream.send(said)
            try:
                answer = await stream.receive(timeout=5)
            except PasarError as exc:
                answer = "silence" if "silent" in str(exc) else None
            if answer is None:
                await trio.testing.wait_all_tasks_blocked()  # until it is written down why
            return answer

    def own_quote(self, key: Key, **changes: Any) -> Signed:
        """A quote that ``key`` signs, for ``SHAPE``."""
        us, price = self.key.peer, 1000
        plain = Quote(b"r" * 32, NETWORK, SETTLEMENT, key.peer, us, price, 5000, 2000, late_rate_for(price), 1, 0)
        return sign(replace(plain, **changes), key)


Act = Callable[["HostileSeller", MessageStream, wire.Award], Awaitable[None]]


@dataclass
class HostileSeller:
    """Offers and quotes like everybody, then does ``act`` with every award that it gets.

    ``awards`` counts them; ``errors`` holds what its own side ran into, for a test to look at when it is puzzled.
    """

    market: Marketplace
    key: Key
    seat: MemoryNode
    act: Act
    price: int = 1_000_000
    finish_ms: int = 1000
    awards: list[wire.Award] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)

    @classmethod
    async def join(
        cls, market: Marketplace, number: int, nursery: trio.Nursery, act: Act, price: int = 1_000_000
    ) -> HostileSeller:
        key = Key(number)
        seat = market.net.node(key)
        await nursery.start(seat.run)
        seller = cls(market, key, seat, act, price)
        seat.serve(CONTROL, seller._quote)
        seat.serve(JOB, seller._job)
        for peer, other in market.net.nodes.items():
            if other.alive and peer != key.peer:
                await seat.connect(PeerAddrs(peer, (other._addr,)))
        await seat.publish(offers_topic(NETWORK, PIPELINE), encode(sign(seller.offer(), key)))
        return seller

    @property
    def closed_as(self) -> list[str]:
        """Why the gateway said that attempts were over, once for each attempt and code: an answer may be repeated."""
        closures = (said for said in self.said if isinstance(said, wire.Closure))
        return [code for _, _, code in dict.fromkeys((said.job_id, said.attempt, said.code) for said in closures)]

    def offer(self, **changes: Any) -> Offer:
        model = model_offer(model=MODEL, max_side=1024, speed=10**9, name="noop")
        return offer(self.key.peer, model=model, price=self.price, issued_at=int(time.time()), **changes)

    # -- honest parts ------------------------------------------------------------------------------------------------

    async def _quote(self, raw: Stream) -> None:
        stream = MessageStream(raw)
        try:
            await self.market.greeter("hostile").greet(stream)
            while isinstance(rfq := await stream.receive(), RFQ):
                await stream.send(sign(self.quote(rfq, stream.peer), self.key))
        except PasarError as exc:
            self.errors.append(repr(exc))

    def quote(self, rfq: RFQ, gateway: PeerId) -> Quote:
        price = self.offer().price_of(rfq.shape)
        return Quote(
            rfq.digest,
            NETWORK,
            SETTLEMENT,
            self.key.peer,
            gateway,
            price,
            self.finish_ms,
            1000,
            late_rate_for(price),
            1,
            0,
        )

    def sold_to(self, buyer: PeerId) -> wire.Award:
        """An award that takes a quote of ours, for ``SPEC``."""
        quote = self.quote(RFQ(b"n" * 16, NETWORK, SETTLEMENT, SHAPE, 1000), buyer)
        return wire.Award(b"j" * 32, 1, SETTLEMENT, sign(quote, self.key), quote.price, 1000, 10, 1000, 0, SPEC)

    async def _job(self, raw: Stream) -> None:
        stream = MessageStream(raw, JOB_FRAME)
        try:
            await self.market.greeter("hostile").greet(stream)
            said = await stream.receive(timeout=5)
            if isinstance(said, wire.Award):
                self.awards.append(said)
            if self.awards:  # after a broken stream it is a Resume, and the same lie again
                await self.act(self, stream, self.awards[-1])
        except (PasarError, trio.BrokenResourceError) as exc:
            self.errors.append(repr(exc))

    # -- what a lie is made of ---------------------------------------------------------------------------------------

    def params(self, **changes: Any) -> TicketParams:
        plain = TicketParams(SETTLEMENT, self.key.address, 4000, CERTAIN // 4, b"h" * 32, b"s" * 32, 1, b"b" * 32, 5000)
        return replace(plain, **changes)

    def sealed(
        self, award: wire.Award, data: bytes | None = None, secret: bytes = SECRET
    ) -> tuple[list[Any], list[bytes]]:
        """Artifacts and ciphers of a result."""
        shape = award.spec.shape
        plain = blank(shape.width, shape.height) if data is None else data
        cipher = seal(secret, plain, context(award.job_id, award.attempt, 0))
        return [sealed_artifact("image/png", plain, cipher)], [cipher]

    def commitment(self, award: wire.Award, artifacts: list[Any], **changes: Any) -> Signed:
        plain = wire.Commitment(award.job_id, award.attempt, tuple(artifacts), award.price, 0, b"")
        return sign(replace(plain, **changes), self.key)

    def secret(self, award: wire.Award, secret: bytes = SECRET) -> Signed:
        return sign(wire.SealKey(award.job_id, award.attempt, secret), self.key)

    def receipt(self, award: wire.Award, files: list[bytes], buyer: PeerId, **changes: Any) -> Signed:
        """A Receipt as it should be, but for ``changes``."""
        quote, _ = open_signed(award.quote, Quote)
        shape = award.spec.shape
        plain = Receipt(
            protocol=PROTOCOL,
            network=NETWORK,
            settlement=SETTLEMENT,
            job_id=award.job_id,
            attempt=award.attempt,
            gateway=buyer,
            sender=address_of(buyer),
            orchestrator=self.key.peer,
            quote=quote.digest,
            spec=award.spec.digest,
            pipeline=shape.pipeline,
            model=shape.model,
            dtype="float32",
            seed=award.spec.seed,
            steps=shape.steps,
            artifacts=digests_of([("image/png", data) for data in files]),
            trace_root=b"t" * 32 if shape.verification is Verification.TRACE else None,
            trace_kept_until=0,
            price=award.price,
            paid=0,
            times=Times(0, 0, 0, 0, 1),
        )
        return sign(replace(plain, **changes), self.key)

    def digests(self, files: list[bytes]) -> Any:
        return digests_of([("image/png", data) for data in files])

    def verdict(self, said: wire.Tickets, gateway: PeerId, signer: Key) -> bytes:
        """A verdict that credits everything, by whoever signs it."""
        payment = decode_as(Payment, said.payment)
        pair = Pair(SETTLEMENT, address_of(gateway), self.key.address)
        account = Account().credited(payment.value).stated()
        digest = payment_digest(payment)
        statement = pair.statement(account, b"e" * 16, payment.payment_id, digest, payment.value)
        codes = tuple(TicketCode.OK for _ in payment.tickets)
        signed = sign(statement, signer)
        return encode(PaymentVerdict(payment.payment_id, codes, payment.value, account.balance, 0, None, signed))

    async def accept(self, stream: MessageStream, award: wire.Award, **changes: Any) -> None:
        """Take the award and say that the work began; nothing is due."""
        await stream.send(replace(wire.Acceptance(award.job_id, award.attempt, 0, b""), **changes))
        await stream.send(wire.Start(award.job_id, award.attempt))

    async def upload(self, stream: MessageStream, cipher: bytes) -> None:
        ref = wire.BlobRef(_sha(cipher), len(cipher))
        for index in range(-(-len(cipher) // CHUNK)):
            piece = cipher[index * CHUNK : (index + 1) * CHUNK]
            await stream.send(Chunk(ref.blob, index, _sha(piece), piece))

    async def listen(self, stream: MessageStream) -> None:
        """Read until the gateway hangs up, and keep what it said."""
        while (said := await stream.receive(timeout=10)) is not None:
            if not isinstance(said, ChunkAck):
                self.said.append(said)


def _sha(data: bytes) -> bytes:
    return sha256(data).digest()
