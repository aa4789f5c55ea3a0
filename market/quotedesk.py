"""QuoteDesk: the seller's end of ``/pasar/control/1``. Answers RFQs, keeps holds, and says what an award took.

The rules are in ``market/quote.py``; this shell brings the questions and signs the answers. Knows no job stream; the
orchestrator asks ``check`` and ``take`` when an award arrives there.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from compute.spec import JobShape
from ledger.money import Settlement
from market.hello import Greeter
from market.jobinputs import refs_of
from market.jobwire import BAD_INPUT, BUSY, OTHER_BODY, Award
from market.offer import Offer
from market.protocol import CONTROL
from market.quote import RFQ, Decline, Places, Quote, QuoteRefusal, Quoting, Release
from p2p.admission import RateLimit
from p2p.codec import decode_as
from p2p.envelope import Signed, Signer, open_from, sign
from p2p.errors import PasarError, PeerFault, Refused, UnknownMessage
from p2p.peer import Address, PeerId, address_of, peer_text
from p2p.scores import Fault
from p2p.stream import MessageStream
from p2p.transport import Network, Stream

log = structlog.get_logger(__name__)

IDLE_S = 3600.0
LAPSES, LAPSE_FORGOTTEN_S = 3, 60.0  # awards that a gateway may leave uncovered, and one more in so many seconds


class QuoteDesk:
    """An award is taken once, and only by the gateway that its quote was given to."""

    def __init__(
        self,
        network: Network,
        greeter: Greeter,
        signer: Signer,
        settlement: Settlement,
        *,
        offer: Callable[[str], Offer | None],
        places: Callable[[JobShape], Places],
        funded: Callable[[Address], bool],
    ) -> None:
        self._network, self._greeter, self._signer, self._settlement = network, greeter, signer, settlement
        self._offer, self._places, self._funded = offer, places, funded
        self._quoting = Quoting(signer.peer, greeter.network, settlement)
        self._lapses = RateLimit(1 / LAPSE_FORGOTTEN_S, LAPSES)
        self._lapsed: dict[PeerId, float] = {}
        self._opened: tuple[Signed, Quote] | None = None  # the last award's quote: it is asked about twice
        self.draining = False

    def serve(self) -> None:
        """Answer on every control stream from now on."""
        self._network.serve(CONTROL, self._accept)

    def held(self) -> int:
        """Places kept for open quotes."""
        return self._quoting.held(_now_ms())

    def held_shapes(self) -> list[JobShape]:
        """What places are kept for, one for each open quote with a place."""
        return self._quoting.held_shapes(_now_ms())

    def check(self, award: Award, gateway: PeerId) -> tuple[str, str]:
        """What ``take`` would answer now, as far as it can be said without a place. Changes no place.

        Raises PeerFault for a quote that is not ours.
        """
        if self.draining:
            return BUSY, "this orchestrator is about to stop"
        try:
            quote = self._open(award.quote, gateway)
        except UnknownMessage:
            return BUSY, "a quote of a version that is not spoken here"
        hold = self._quoting.find(quote.rfq, gateway, _now_ms())
        if hold is None or hold.quote != quote:
            self._quoting.spoke(quote.rfq, gateway)
            return BUSY, "no open quote of ours"
        if award.slices:
            return BAD_INPUT, "nothing on offer here is paid in slices"
        if award.inputs != refs_of(award.spec):
            return BAD_INPUT, "the inputs differ from those of the job"
        agreed = (quote.price, quote.finish_by_ms, quote.late_rate, quote.settlement, hold.shape)
        asked = (award.price, award.finish_by_ms, award.late_rate, award.settlement, award.spec.shape)
        if agreed != asked:
            return OTHER_BODY, "the award differs from the quote it names"
        return "", ""

    def take(self, award: Award, gateway: PeerId) -> tuple[str, str]:
        """Whether this award takes an open quote of ours: ("", "") or a code with a hint. A quote is taken once.

        Raises PeerFault for a quote that is not ours.
        """
        refused = self.check(award, gateway)
        if refused[0]:
            return refused
        if (
            self._quoting.award(
                self._open(award.quote, gateway).rfq, gateway, self._places(award.spec.shape).free, _now_ms()
            )
            is None
        ):
            return BUSY, "the quote is over and no place is left"
        return "", ""

    def _open(self, signed: Signed, gateway: PeerId) -> Quote:
        """The quote inside, which is of ours. Raises PeerFault, UnknownMessage."""
        if self._opened is not None and self._opened[0] is signed:
            return self._opened[1]
        quote = decode_as(Quote, signed.payload)
        hold = self._quoting.find(quote.rfq, gateway, _now_ms())
        # Ours is signed the same each time, which is sooner seen by signing it again than by asking who signed this.
        if hold is None or sign(hold.quote, self._signer) != signed:
            open_from(signed, Quote, self._signer.peer)
        self._opened = signed, quote
        return quote

    def lapsed(self, gateway: PeerId) -> None:
        """An award of this gateway took a place and was not covered: after a few, it gets no quotes for a while."""
        now = trio.current_time()
        if not self._lapses.allow(gateway, now):
            self._lapsed = {peer: until for peer, until in self._lapsed.items() if until > now}
            self._lapsed[gateway] = now + LAPSE_FORGOTTEN_S

    async def _accept(self, raw: Stream) -> None:
        stream = MessageStream(raw)
        try:
            await self._greeter.greet(stream)
            while (said := await stream.receive(timeout=IDLE_S)) is not None:
                await self._answer(stream, said)
            await stream.aclose()
        except Refused as exc:
            log.info("control stream refused", peer=peer_text(raw.peer), code=exc.code)
            await stream.reset()

    async def _answer(self, stream: MessageStream, said: object) -> None:
        if isinstance(said, Release):
            self._quoting.release(said.rfq, stream.peer, _now_ms())
            return
        if not isinstance(said, RFQ):
            raise PeerFault(f"{type(said).__name__} on a control stream")
        answer = self._quote(said, stream.peer)
        await stream.send(sign(answer, self._signer) if isinstance(answer, Quote) else answer)

    def _quote(self, rfq: RFQ, gateway: PeerId) -> Quote | QuoteRefusal:
        if self.draining:
            return QuoteRefusal(rfq.digest, Decline.DRAINING)
        if self._lapsed.get(gateway, 0.0) > trio.current_time():
            return QuoteRefusal(rfq.digest, Decline.UNFUNDED)
        offer = self._offer(rfq.shape.pipeline)
        if offer is None or offer.unfit(rfq.shape) is not None:
            return QuoteRefusal(rfq.digest, Decline.NOT_OFFERED)
        try:
            funded = self._funded(address_of(gateway))
            answer = self._quoting.answer(rfq, gateway, offer, self._places(rfq.shape), _now_ms(), funded=funded)
            for forgetful in self._quoting.take_unclaimed():
                self._network.report(forgetful, Fault.UNCLAIMED)
            return answer
        except PasarError as exc:
            log.info("cannot quote", gateway=peer_text(gateway), reason=str(exc))
            return QuoteRefusal(rfq.digest, Decline.BUSY)


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
