"""Sender: turns an amount into tickets, within caps, and never signs one chance twice. Pure.

What is owed is covered by credit with that recipient first, by whole tickets for the rest. Plans are made from rows
that the caller keeps; the plan says how the rows change, and a payment is signed only from a plan that was kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ledger.account import NOTHING, Account
from ledger.cover import Cover
from ledger.money import ETH, Settlement
from ledger.ticket import CERTAIN, MAX_BATCH, MAX_NONCE, Payment, SignedNonce, TicketParams, signing_digest
from p2p.envelope import Signer
from p2p.errors import Refused


@dataclass(frozen=True, slots=True)
class SendingTerms:
    """The caps of a sender: the most that one ticket may draw, be worth, and that one batch may be worth."""

    max_face: int = ETH // 10
    max_ticket_value: int = ETH // 20
    max_batch_value: int = ETH // 2


@dataclass(frozen=True, slots=True)
class ParamsSeen:
    """Params as a sender remembers them: the next nonce never signed, and whether they may be used at all."""

    digest: bytes
    next_nonce: int = 1
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Purse:
    """What a sender holds with one recipient.

    ``claimed`` is the part of the balance that payments for unfinished jobs rest on; ``in_flight`` was signed and is
    unanswered; ``stated`` is the balance in the recipient's newest statement, None before the first. Claims never
    exceed the balance.
    """

    account: Account = NOTHING
    claimed: int = 0
    in_flight: int = 0
    stated: int | None = None

    @property
    def free(self) -> int:
        """Credit that a new payment may rest on: the lower of our view and the recipient's signed one."""
        balance = self.account.balance if self.stated is None else min(self.account.balance, self.stated)
        return max(0, balance - self.claimed)

    @property
    def at_risk(self) -> int:
        """What is lost if this recipient vanishes now, standing credit aside."""
        return self.claimed + self.in_flight


@dataclass(frozen=True, slots=True)
class Plan:
    """How ``amount`` will be covered: ``from_credit`` and the tickets of ``nonces``, worth ``value`` together."""

    amount: int
    from_credit: int
    nonces: range
    value: int


def plan(
    amount: int,
    params: TicketParams,
    *,
    settlement: Settlement,
    seen: ParamsSeen,
    purse: Purse,
    cover: Cover,
    terms: SendingTerms,
    alive: bool,
    certain: bool = False,
    exposure: int | None = None,
) -> Plan:
    """Cover ``amount``, or raise Refused with the code, what there is, and what it would take."""
    if exposure is not None and purse.at_risk + amount > exposure:
        raise Refused(
            "EXPOSURE", "more than this recipient is trusted with", have=exposure, need=purse.at_risk + amount
        )
    from_credit = min(purse.free, amount)
    rest = amount - from_credit
    if rest == 0:
        return Plan(amount, from_credit, range(seen.next_nonce, seen.next_nonce), 0)
    _check_params(params, settlement, seen, terms, alive, certain)
    _check_cover(params, cover)
    count = -(-rest // params.value)
    if count > MAX_BATCH or count * params.value > terms.max_batch_value:
        most = min(MAX_BATCH * params.value, terms.max_batch_value)
        raise Refused("BATCH_TOO_LARGE", "ask for params of a higher value", have=most, need=rest)
    if seen.next_nonce + count - 1 > MAX_NONCE:
        raise Refused("NONCE_EXHAUSTED", "ask for fresh params", have=MAX_NONCE, need=seen.next_nonce + count - 1)
    return Plan(amount, from_credit, range(seen.next_nonce, seen.next_nonce + count), count * params.value)


def after(planned: Plan, seen: ParamsSeen) -> ParamsSeen:
    """The params once the plan's nonces are spoken for."""
    return replace(seen, next_nonce=max(seen.next_nonce, planned.nonces.stop))


def sign_payment(payment_id: bytes, planned: Plan, params: TicketParams, signer: Signer) -> Payment:
    """The payment of a plan. The same plan gives the same bytes: signatures are deterministic."""
    nonces = tuple(planned.nonces)
    hashes = params.hashes(signer.address, nonces)
    signed = (SignedNonce(n, signer.sign(signing_digest(h))) for n, h in zip(nonces, hashes, strict=True))
    return Payment(payment_id, params, tuple(signed))


def _check_params(
    params: TicketParams, settlement: Settlement, seen: ParamsSeen, terms: SendingTerms, alive: bool, certain: bool
) -> None:
    if params.settlement != settlement:
        raise Refused("SETTLEMENT_MISMATCH", f"tickets of {params.settlement} where {settlement} is paid")
    if seen.dropped:
        raise Refused("PARAMS_DROPPED", "older than our last start: ask for fresh params")
    if not alive:
        raise Refused("PARAMS_EXPIRED", "ask for fresh params", need=params.lives_for_ms)
    if params.face_value > terms.max_face:
        raise Refused("FACE_OUT_OF_RANGE", "face value above our cap", have=terms.max_face, need=params.face_value)
    if params.value == 0:
        raise Refused("WINPROB_OUT_OF_RANGE", "tickets that are worth nothing")
    if certain and params.win_prob != CERTAIN:
        raise Refused("WINPROB_OUT_OF_RANGE", "not every ticket under these params wins")
    if params.value > terms.max_ticket_value:
        raise Refused(
            "WINPROB_OUT_OF_RANGE", "ticket worth more than our cap", have=terms.max_ticket_value, need=params.value
        )


def _check_cover(params: TicketParams, own: Cover) -> None:
    if own.withdraw_round:
        raise Refused("SENDER_UNLOCKING", "our own deposit is being withdrawn", have=0, need=params.face_value)
    if own.total < params.face_value:
        raise Refused("SENDER_UNFUNDED", "our own deposit is too small", have=own.total, need=params.face_value)
