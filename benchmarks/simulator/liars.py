"""Liars: whole roles with a valid key whose words are changed on their way out, or that never do what they took.

What a liar says is still well-formed and signed by itself: what it lies about is the market's to find. Honest nodes are
told nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import trio

from benchmarks.noop_worker import NoopWorker
from benchmarks.simulator.schedule import Lie
from compute.spec import JobSpec
from compute.work import JobResult, Step
from ledger.ticket import PaymentVerdict, Statement, TicketCode
from market import jobwire as wire
from market.offer import Offer
from market.orchestrator import Orchestrator
from p2p.codec import decode, decode_as, encode
from p2p.envelope import Signer, sign
from p2p.framing import FrameDecoder, frame
from p2p.stream import JOB_FRAME
from p2p.transport import Network, Stream

Change = Callable[[Any], Any]  # what is said in its place; None for nothing


class Mouth:
    """A stream on which something else is said than was meant."""

    def __init__(self, stream: Stream, change: Change) -> None:
        self._stream, self._change = stream, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, data: bytes) -> None:
        said = (self._change(decode(payload, JOB_FRAME)) for payload in FrameDecoder(JOB_FRAME).feed(data))
        kept = b"".join(frame(encode(one)) for one in said if one is not None)
        if kept:
            await self._stream.send(kept)


class LyingSeat:
    """A seat on which every stream has such a mouth."""

    def __init__(self, seat: Network, change: Change) -> None:
        self._seat, self._change = seat, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seat, name)

    async def open(self, peer: Any, protocol: str) -> Any:
        return Mouth(await self._seat.open(peer, protocol), self._change)

    def serve(self, protocol: str, acceptor: Any) -> None:
        self._seat.serve(protocol, lambda stream: acceptor(Mouth(stream, self._change)))


class Idle(NoopWorker):
    """Takes every job and finishes none."""

    async def generate(
        self, job_id: bytes, spec: JobSpec, on_step: Callable[[Step], None], files: Sequence[bytes] = ()
    ) -> JobResult:
        await trio.sleep_forever()


def change_of(lie: Lie | None, signer: Signer) -> Change | None:
    """How this liar changes what it says; None for one that says what it means."""
    match lie:
        case Lie.KEYLESS:
            return _without_key
        case Lie.WRONG_KEY:
            return lambda said: _with_key(said, signer)
        case Lie.DENIES:
            return lambda said: _denied(said, signer)
        case Lie.UNPAYING:
            return lambda said: None if isinstance(said, wire.Tickets) and said.payment else said
    return None


def make_dear(seller: Orchestrator) -> None:
    """From now on it quotes half as much again as it offers."""
    real = seller.offering.current

    def dear(pipeline: str) -> Offer | None:
        offer = real(pipeline)
        return None if offer is None else replace(offer, price=offer.price * 3 // 2)

    seller.desk._offer = dear


def _without_key(said: Any) -> Any:
    if isinstance(said, wire.Delivery):
        return None
    return replace(said, key=None, receipt=None) if isinstance(said, wire.Seal) else said


def _with_key(said: Any, signer: Signer) -> Any:
    if not isinstance(said, wire.Delivery | wire.Seal) or said.key is None:
        return said
    return replace(said, key=sign(wire.SealKey(said.job_id, said.attempt, bytes(32)), signer))


def _denied(said: Any, signer: Signer) -> Any:
    """A signed word that nothing was credited, where something was."""
    if not isinstance(said, wire.TicketsVerdict) or not said.verdict:
        return said
    verdict = decode_as(PaymentVerdict, said.verdict)
    if not verdict.credited:
        return said
    stated = decode_as(Statement, verdict.statement.payload)
    less = replace(stated, credited=0, credit=max(stated.debit, stated.credit - stated.credited))
    codes = _refused(verdict.codes)
    lie = replace(verdict, codes=codes, credited=0, statement=sign(less, signer))
    return replace(said, verdict=encode(lie), need=said.need + verdict.credited)


def _refused(codes: Iterable[TicketCode]) -> tuple[TicketCode, ...]:
    return tuple(TicketCode.SIG_SIGNER for _ in codes)
