"""Recipient: asks for tickets, judges those that come, and says what they are worth. Pure.

A rand is derived from a persistent secret, so that params cost nothing to issue and survive a restart; a row is kept
from the first good ticket on. Each ticket of a batch is judged alone, in any order. The caller keeps the rows, the
accounts and the time; calendar milliseconds come in as ``now_ms``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ledger.cover import Cover, Round, redeemable_beyond
from ledger.money import MAX_WEI, Settlement
from ledger.ticket import (
    CERTAIN,
    MAX_BATCH,
    MAX_NONCE,
    Payment,
    TicketCode,
    TicketParams,
    Winner,
    check_signature,
    win_prob_for,
    wins,
)
from p2p.errors import Refused
from p2p.peer import Address, keccak256

TICKETS_PER_PRICE = 16  # so that a reservation of a sixteenth is one ticket
FACE_OF_VALUE = 4  # a face value is at least this many times a ticket's value: one in four wins
MIN_WINS = 10  # a month: below that, more overhead buys less chance
_TAG = b"pasar/recipient-rand/1\0"
_CHANCE = 20
_ZERO_ADDRESS = bytes(20)


@dataclass(frozen=True, slots=True)
class ReceivingTerms:
    """What a recipient asks for: how long its params live, what a redemption costs it, how much it lets stand."""

    lives_for_ms: int = 60_000
    redemption_cost: int = 0  # wei per ticket, in a batch as this recipient fills it
    monthly_income: int | None = None  # wei; None: enough for ten wins
    max_float: int = MAX_WEI


@dataclass(frozen=True, slots=True)
class ParamsUse:
    """Which nonces of issued params were credited (bit n - 1 for nonce n), and whether their rand is public."""

    sender: Address
    ripe_at_ms: int
    bitmap: int = 0
    redeemed: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What a ticket says by itself: its signature's verdict, and its draw. No state is needed for it."""

    code: TicketCode
    won: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch judged: a code per ticket, the credit that follows, the nonces now used, the winners to keep."""

    codes: tuple[TicketCode, ...]
    credited: int
    use: ParamsUse
    winners: tuple[Winner, ...]


def face_value_for(value: int, redemption_cost: int, monthly_income: int | None = None) -> int:
    """Face value of tickets worth ``value``: four times that, and redemption at most 5 % of it.

    Up to 20 % when a month of ``monthly_income`` would else hold fewer than ten wins.
    """
    face = redemption_cost * 20
    if monthly_income is not None and monthly_income < MIN_WINS * face:
        face = max(monthly_income // MIN_WINS, redemption_cost * 5)
    return max(FACE_OF_VALUE * value, face)


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient under one settlement. ``secret`` (32 bytes) never changes; ``key_id`` names it inside seeds."""

    settlement: Settlement
    address: Address
    secret: bytes
    key_id: int = 0

    def issue(
        self,
        sender: Address,
        value: int,
        *,
        terms: ReceivingTerms,
        room: int,
        round_: Round,
        now_ms: int,
        chance: bytes,
        certain: bool = False,
    ) -> TicketParams:
        """Params for tickets worth ``value`` each. ``room`` is what the sender's cover can still bear.

        Raises Refused SENDER_UNFUNDED with what is needed.
        """
        face = value if certain else face_value_for(value, terms.redemption_cost, terms.monthly_income)
        face = min(face, max(room // FACE_OF_VALUE, value))  # several winners must fit the cover
        need = max(value, terms.redemption_cost)
        if value and (room < face or face < need):
            raise Refused("SENDER_UNFUNDED", "the deposit does not bear one ticket", have=room, need=need)
        seed = self.key_id.to_bytes(4, "big") + now_ms.to_bytes(8, "big") + chance[:_CHANCE].ljust(_CHANCE, b"\0")
        bare = TicketParams(
            self.settlement,
            self.address,
            face,
            win_prob_for(face, value),
            bytes(32),
            seed,
            round_.number,
            round_.block_hash,
            terms.lives_for_ms,
        )
        return replace(bare, rand_hash=keccak256(self.rand_of(bare, sender)))

    def rand_of(self, params: TicketParams, sender: Address) -> bytes:
        """The rand behind params issued to ``sender``: fixed-width fields under one domain tag."""
        settlement = params.settlement
        numbers = (
            settlement.chain_id,
            params.face_value,
            params.win_prob,
            params.creation_round,
            params.lives_for_ms,
        )
        fields = b"".join(n.to_bytes(32, "big") for n in numbers)
        names = settlement.broker + sender + params.recipient + params.seed + params.creation_round_hash
        return hmac.digest(self.secret, _TAG + names + fields, hashlib.sha256)

    def check(self, payment: Payment, sender: Address) -> tuple[Checked, ...]:
        """Signature and draw of every ticket. Costs a key recovery each; may run in any thread."""
        params = payment.params
        rand = self.rand_of(params, sender)
        if keccak256(rand) != params.rand_hash:
            return tuple(Checked(TicketCode.PARAMS_NOT_MINE, False) for _ in payment.tickets)
        hashes = params.hashes(sender, tuple(t.nonce for t in payment.tickets))
        return tuple(
            Checked(check_signature(h, t.signature, sender), wins(t.signature, rand, params.win_prob))
            for h, t in zip(hashes, payment.tickets, strict=True)
        )

    def refusal(
        self, params: TicketParams, sender: Address, *, use: ParamsUse, cover: Cover, round_: Round | None, now_ms: int
    ) -> TicketCode:
        """OK, or why no ticket under ``params`` may be credited now."""
        if params.settlement != self.settlement:
            return TicketCode.SETTLEMENT_MISMATCH
        if params.recipient != self.address:
            return TicketCode.RECIPIENT_MISMATCH
        if sender == _ZERO_ADDRESS:
            return TicketCode.SENDER_ZERO
        if keccak256(self.rand_of(params, sender)) != params.rand_hash:
            return TicketCode.PARAMS_NOT_MINE
        if use.redeemed:
            return TicketCode.PARAMS_REDEEMED
        if now_ms >= use.ripe_at_ms:
            return TicketCode.PARAMS_EXPIRED
        if cover.total < params.face_value:
            return TicketCode.SENDER_UNFUNDED
        return _round_refusal(params, cover, round_)

    def judge(
        self,
        payment: Payment,
        sender: Address,
        checked: Sequence[Checked],
        *,
        use: ParamsUse,
        cover: Cover,
        room: int,
        round_: Round | None,
        now_ms: int,
    ) -> Judged:
        """A code for every ticket. ``room``: what may still win before the sender's cover, or our float, is full."""
        params = payment.params
        refused = self.refusal(params, sender, use=use, cover=cover, round_=round_, now_ms=now_ms)
        if refused is TicketCode.OK and len(payment.tickets) > MAX_BATCH:
            refused = TicketCode.BATCH_TOO_LARGE
        if refused is not TicketCode.OK:
            return Judged(tuple(refused for _ in payment.tickets), 0, use, ())
        rand, codes, winners, bitmap = self.rand_of(params, sender), [], [], use.bitmap
        for ticket, check in zip(payment.tickets, checked, strict=True):
            code = _judge_one(ticket.nonce, check, bitmap, room - params.face_value)
            codes.append(code)
            if code is not TicketCode.OK:
                continue
            bitmap |= 1 << (ticket.nonce - 1)
            if check.won:
                room -= params.face_value
                winners.append(Winner(params.ticket(sender, ticket.nonce), ticket.signature, rand, use.ripe_at_ms))
        good = sum(code is TicketCode.OK for code in codes)
        return Judged(tuple(codes), good * params.value, replace(use, bitmap=bitmap), tuple(winners))


def first_use(params: TicketParams, sender: Address) -> ParamsUse:
    """The row of params that no ticket has come under yet. Their age is in the seed, by our own calendar.

    They count for one life more than the sender is told: its clock starts when they arrive, and tickets travel.
    """
    issued_ms = int.from_bytes(params.seed[4:12], "big")
    return ParamsUse(sender, issued_ms + 2 * params.lives_for_ms)


def may_serve_again(params: TicketParams, use: ParamsUse, now_ms: int) -> bool:
    """Whether a sender is well served with these params for another payment: half their life and half the nonces."""
    half_life = use.ripe_at_ms - 2 * params.lives_for_ms + params.lives_for_ms // 2
    return now_ms < half_life and use.bitmap.bit_count() < MAX_NONCE // 2


def certain(params: TicketParams) -> bool:
    """Whether every ticket under these params wins."""
    return params.win_prob == CERTAIN


def _judge_one(nonce: int, check: Checked, bitmap: int, room_left: int) -> TicketCode:
    if not 1 <= nonce <= MAX_NONCE:
        return TicketCode.NONCE_EXHAUSTED
    if check.code is not TicketCode.OK:
        return check.code
    if bitmap >> (nonce - 1) & 1:
        return TicketCode.NONCE_REPLAY
    return TicketCode.OK if room_left >= 0 else TicketCode.FLOAT_EXCEEDED


def _round_refusal(params: TicketParams, cover: Cover, round_: Round | None) -> TicketCode:
    if round_ is None or params.creation_round > round_.number:
        return TicketCode.ROUND_UNKNOWN
    if params.creation_round == round_.number and params.creation_round_hash != round_.block_hash:
        return TicketCode.ROUND_HASH_MISMATCH
    if params.creation_round + round_.validity <= round_.number:
        return TicketCode.ROUND_EXPIRED
    if not redeemable_beyond(cover, round_):
        return TicketCode.SENDER_UNLOCKING
    return TicketCode.OK
