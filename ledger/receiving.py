"""The books of a recipient: what it asks for, what each payment was credited, what was spent, what won.

Shell over ``ledger/recipient.py`` and the journal. Nonces, credit, winners and the signed verdict of one payment are
one transaction: a verdict that left is never forgotten, and a payment that comes again gets it again. Knows no job but
by its id, and redeems nothing itself.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import structlog
import trio

from ledger.account import NO_PAYMENT, NOTHING, Account, Pair, Standing, adopted
from ledger.cover import Cover, CoverSource, Round
from ledger.journal import Also, Begun, Transaction, Writes, nothing
from ledger.money import Settlement
from ledger.recipient import (
    TICKETS_PER_PRICE,
    Checked,
    Judged,
    ReceivingTerms,
    Recipient,
    first_use,
    may_serve_again,
)
from ledger.recipient_rows import RecipientRows, VerdictRow
from ledger.rows import DebitKey
from ledger.ticket import Payment, PaymentVerdict, Statement, TicketCode, TicketParams, Winner, payment_digest
from p2p.codec import decode_as, encode
from p2p.envelope import Signed, Signer, open_signed, sign
from p2p.errors import BadSignature, Refused, Unavailable
from p2p.peer import Address, address_of

log = structlog.get_logger(__name__)

MAX_REFUSED = 256  # refused payments remembered per sender; beyond, they are judged again each time
IN_THREAD_FROM = 8  # tickets: below that, the way to a thread costs more than the recoveries
NOT_OURS = frozenset(
    {
        TicketCode.SETTLEMENT_MISMATCH,
        TicketCode.RECIPIENT_MISMATCH,
        TicketCode.SENDER_ZERO,
        TicketCode.PARAMS_NOT_MINE,
    }
)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A payment with what only the shell can know: the time, the chain as last seen, some chance."""

    sender: Address
    payment: Payment
    checked: tuple[Checked, ...]
    cover: Cover
    round: Round | None
    now_ms: int
    chance: bytes


@dataclass
class _Seen:
    """What is read without waiting: accounts and standings as of the last commit."""

    accounts: dict[Address, Account] = field(default_factory=dict)
    standings: dict[Address, Standing] = field(default_factory=dict)
    won: bool = False


class ReceivingBooks:
    """Credit is only what tickets in the journal were worth; it is spent once, and never below nothing."""

    def __init__(
        self,
        journal: Writes,
        signer: Signer,
        settlement: Settlement,
        terms: ReceivingTerms,
        cover: CoverSource,
        *,
        wall_time: Callable[[], float] = time.time,
        chance: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.terms = terms
        self.redemption_cost: Callable[[], int] | None = None  # asked for each params; None: as the terms say
        self._journal, self._signer, self._settlement, self._cover = journal, signer, settlement, cover
        self._wall_time, self._chance = wall_time, chance
        self._limiter = trio.CapacityLimiter(1)
        self._seen = _Seen()

    async def load(self) -> None:
        """Read what ``credit_of`` and ``exposure`` answer from. Once, at the start."""
        await self._journal.write(self._load)

    async def params_for(
        self, sender: Address, price: int, *, tickets: int = TICKETS_PER_PRICE, certain: bool = False
    ) -> TicketParams:
        """Params under which ``tickets`` tickets cover ``price``; ``certain``: every one wins.

        Raises Refused SENDER_UNFUNDED with what is needed, and Unavailable before any round is known.
        """
        return await (await self.begin_params(sender, price, tickets=tickets, certain=certain)).wait()

    async def begin_params(
        self, sender: Address, price: int, *, tickets: int = TICKETS_PER_PRICE, certain: bool = False
    ) -> Begun[TicketParams]:
        """``params_for``, handed in: they may leave when they are on disk."""
        value = -(-price // tickets)
        round_, cover, now_ms, chance = self._round(), self._cover.deposit_of(sender), self._now_ms(), self._chance(20)
        return await self._journal.begin(
            lambda tx: self._issue(self._rows(tx), sender, value, cover, round_, now_ms, chance, certain)
        )

    async def receive(
        self, sender: Address, payment: Payment, credited: Callable[[int], None] = lambda amount: None
    ) -> PaymentVerdict:
        """The verdict on a payment, its credit already on disk. The same payment gets the same verdict.

        ``credited`` is told what it was worth at the moment from which ``credit_of`` counts it, which is before this
        returns: whoever paid for one thing can have it kept for that.
        """
        recipient = self._recipient()
        if len(payment.tickets) < IN_THREAD_FROM:
            checked = recipient.check(payment, sender)
        else:
            checked = await trio.to_thread.run_sync(recipient.check, payment, sender, limiter=self._limiter)
        arrived = _Arrived(
            sender,
            payment,
            checked,
            self._cover.deposit_of(sender),
            self._cover.round_now(),
            self._now_ms(),
            self._chance(20),
        )
        return await self._journal.write(lambda tx: self._receive(tx, arrived, credited))

    async def debit(self, sender: Address, job_id: bytes, attempt: int, amount: int, slice_: int = 0) -> int:
        """Delivered: ``amount`` of the credit is ours, once per slice; what is left. Raises Refused NO_CREDIT."""
        key, now_ms = DebitKey(job_id, attempt, slice_), self._now_ms()
        return await self._journal.write(lambda tx: self._debit(tx, sender, key, amount, now_ms))

    async def statement(self, sender: Address) -> Signed:
        """The sender's account as of now, signed."""
        return await self._journal.write(lambda tx: self._state(tx, sender))

    async def adopt(self, sender: Address, proof: Signed) -> bool:
        """Learn from a statement of our own that this database does not remember. Whether there was something to learn.

        Raises BadSignature for anybody else's.
        """
        statement, author = open_signed(proof, Statement)
        if address_of(author) != self._signer.address or not self._pair(sender).matches(statement):
            raise BadSignature("not a statement of ours about this sender")
        return await self._journal.write(lambda tx: self._adopt(tx, sender, statement))

    def credit_of(self, sender: Address) -> int:
        """Credit that the sender has not spent."""
        return self._seen.accounts.get(sender, NOTHING).balance

    async def winners(self, most: int = 100, *, submitted: bool = False) -> tuple[Winner, ...]:
        """Winners whose params are over: those waiting, or those submitted and not yet known to be paid."""
        state, now_ms = "submitted" if submitted else "pending", self._now_ms()
        return await self._journal.write(lambda tx: self._rows(tx).winners(state, now_ms, most))

    async def submitting(self, hashes: Iterable[bytes], tx_hash: bytes = b"") -> None:
        """Before these are sent to the broker: their rands are public from now on. May be said again."""
        found, now_ms = tuple(hashes), self._now_ms()
        await self._journal.write(lambda tx: self._submitting(tx, found, tx_hash, now_ms))

    async def confirmed(self, hashes: Iterable[bytes], tx_hash: bytes) -> None:
        """These were paid, for good."""
        await self._move(tuple(hashes), "confirmed", tx_hash, "")

    async def retry(self, hashes: Iterable[bytes]) -> None:
        """Their submission came to nothing: they wait again."""
        await self._move(tuple(hashes), "pending", b"", "")

    async def failed(self, hashes: Iterable[bytes], reason: str) -> None:
        """These will never be paid; ``reason`` is the broker's word for why."""
        await self._move(tuple(hashes), "failed", b"", reason[:200])

    async def won(self, sender: Address | None = None) -> int:
        """How many winning tickets there ever were, from one sender or from all."""
        return await self._journal.write(lambda tx: self._rows(tx).won(sender))

    @property
    def has_won(self) -> bool:
        """Whether any ticket ever won here."""
        return self._seen.won

    def exposure(self, sender: Address, small_job: int = 1) -> int:
        """The exposure limit, in whatever a small job is given in (in small jobs when it is not)."""
        return self.standing(sender).limit(small_job)

    def standing(self, sender: Address) -> Standing:
        return self._seen.standings.get(sender, Standing())

    async def record_delivered(self, sender: Address, also: Also = nothing) -> None:
        """One more job was delivered. ``also`` is written in the same transaction: what it was that was counted."""
        await self._journal.write(lambda tx: self._judge(tx, sender, Standing.after_delivery, also))

    async def record_fault(self, sender: Address, also: Also = nothing) -> None:
        """A rule was broken. ``also`` as for a delivery."""
        await self._journal.write(lambda tx: self._judge(tx, sender, Standing.after_fault, also))

    def _rows(self, tx: Transaction) -> RecipientRows:
        return RecipientRows(tx.db, str(self._settlement))

    def _recipient(self) -> Recipient:
        return Recipient(self._settlement, self._signer.address, self._journal.secret)

    def _pair(self, sender: Address) -> Pair:
        return Pair(self._settlement, sender, self._signer.address)

    def _round(self) -> Round:
        round_ = self._cover.round_now()
        if round_ is None:
            raise Unavailable("no round of the chain is known yet")
        return round_

    def _now_ms(self) -> int:
        return int(self._wall_time() * 1000)

    def _load(self, tx: Transaction) -> None:
        rows = self._rows(tx)
        self._seen.accounts, self._seen.standings = dict(rows.accounts()), dict(rows.standings())
        self._seen.won = rows.won(None) > 0

    def _note_win(self, face_wei: int) -> None:
        self._seen.won = True
        log.info("ticket won", face_wei=face_wei)

    def _room(self, rows: RecipientRows, sender: Address, cover: Cover) -> int:
        """Face values that may still win: what the cover bears, and what our float lets stand."""
        standing = rows.unredeemed(sender)
        free = cover.total - standing - rows.taken_since(sender, cover.known_at_ms)
        return max(0, min(free, self.terms.max_float - standing))

    def _issue(
        self,
        rows: RecipientRows,
        sender: Address,
        value: int,
        cover: Cover,
        round_: Round,
        now_ms: int,
        chance: bytes,
        certain: bool,
    ) -> TicketParams:
        room, terms = self._room(rows, sender, cover), self.terms
        if self.redemption_cost is not None:
            terms = replace(terms, redemption_cost=self.redemption_cost())
        return self._recipient().issue(
            sender, value, terms=terms, room=room, round_=round_, now_ms=now_ms, chance=chance, certain=certain
        )

    def _receive(self, tx: Transaction, arrived: _Arrived, credited: Callable[[int], None]) -> PaymentVerdict:
        rows, sender, payment = self._rows(tx), arrived.sender, arrived.payment
        digest = payment_digest(payment)
        kept = rows.verdict(sender, payment.payment_id)
        if kept is not None and (kept.credited or kept.digest == digest):
            return decode_as(PaymentVerdict, kept.verdict)
        params_id, cover = payment.params.params_id, arrived.cover
        use = rows.use(params_id) or first_use(payment.params, sender)
        judged = self._recipient().judge(
            payment,
            sender,
            arrived.checked,
            use=use,
            cover=cover,
            room=self._room(rows, sender, cover),
            round_=arrived.round,
            now_ms=arrived.now_ms,
        )
        for winner in judged.winners:
            rows.put_winner(winner, arrived.now_ms)
            tx.after_commit(partial(self._note_win, winner.ticket.face_value))
        if judged.credited or judged.use.bitmap != use.bitmap:
            rows.put_use(params_id, judged.use)
        ours = self._worth_a_row(rows, sender, judged)
        account = rows.account(sender).credited(judged.credited)
        account = account.stated() if ours else account
        verdict = self._verdict(rows, arrived, judged, account, digest)
        if ours:
            rows.put_account(sender, account)
            row = VerdictRow(digest, judged.credited, encode(verdict))
            rows.put_verdict(sender, payment.payment_id, row, arrived.now_ms)
            self._show(tx, sender, account)
            tx.after_commit(partial(credited, judged.credited))
        return verdict

    def _worth_a_row(self, rows: RecipientRows, sender: Address, judged: Judged) -> bool:
        """What has no tickets, or none of ours, leaves no trace, and refusals only so many: disks are finite."""
        if not judged.codes or NOT_OURS.intersection(judged.codes):
            return False
        return judged.credited > 0 or rows.refused(sender) < MAX_REFUSED

    def _verdict(
        self, rows: RecipientRows, arrived: _Arrived, judged: Judged, account: Account, digest: bytes
    ) -> PaymentVerdict:
        payment, params, need = arrived.payment, None, 0
        good = all(code is TicketCode.OK for code in judged.codes)
        if arrived.round is not None and not (good and may_serve_again(payment.params, judged.use, arrived.now_ms)):
            try:
                params = self._issue(
                    rows,
                    arrived.sender,
                    payment.params.value,
                    arrived.cover,
                    arrived.round,
                    arrived.now_ms,
                    arrived.chance,
                    payment.params.face_value == payment.params.value,
                )
            except Refused as exc:
                need = exc.need
        pair = self._pair(arrived.sender)
        statement = pair.statement(account, self._journal.epoch, payment.payment_id, digest, judged.credited)
        return PaymentVerdict(
            payment.payment_id,
            judged.codes,
            judged.credited,
            account.balance,
            need,
            params,
            sign(statement, self._signer),
        )

    def _debit(self, tx: Transaction, sender: Address, key: DebitKey, amount: int, now_ms: int) -> int:
        rows = self._rows(tx)
        account = rows.account(sender)
        if rows.debit(sender, key) is None:
            account = account.debited(amount)
            rows.put_debit(sender, key, amount, now_ms)
            rows.put_account(sender, account)
            self._show(tx, sender, account)
        return account.balance

    def _state(self, tx: Transaction, sender: Address) -> Signed:
        rows = self._rows(tx)
        account = rows.account(sender).stated()
        rows.put_account(sender, account)
        self._show(tx, sender, account)
        return sign(self._pair(sender).statement(account, self._journal.epoch, NO_PAYMENT), self._signer)

    def _adopt(self, tx: Transaction, sender: Address, proof: Statement) -> bool:
        rows = self._rows(tx)
        before = rows.account(sender)
        account = adopted(before, self._journal.epoch, rows.adopted(sender, proof.epoch), proof)
        if account is None:
            return False
        rows.put_account(sender, account)
        rows.carry(sender, account.credit - before.credit, account.debit - before.debit)
        if proof.epoch != self._journal.epoch:
            rows.put_adopted(sender, proof.epoch, proof.credit, proof.debit)
        self._show(tx, sender, account)
        return True

    def _submitting(self, tx: Transaction, hashes: tuple[bytes, ...], tx_hash: bytes, now_ms: int) -> None:
        rows = self._rows(tx)
        rows.move_winners(hashes, "submitted", tx_hash, "", now_ms)
        rows.publish_rands(hashes)

    async def _move(self, hashes: tuple[bytes, ...], state: str, tx_hash: bytes, reason: str) -> None:
        now_ms = self._now_ms()
        await self._journal.write(lambda tx: self._rows(tx).move_winners(hashes, state, tx_hash, reason, now_ms))

    def _judge(self, tx: Transaction, sender: Address, change: Callable[[Standing], Standing], also: Also) -> None:
        also(tx)
        rows = self._rows(tx)
        standing = change(rows.standing(sender))
        rows.put_standing(sender, standing)
        tx.after_commit(lambda: self._seen.standings.update({sender: standing}))

    def _show(self, tx: Transaction, sender: Address, account: Account) -> None:
        tx.after_commit(lambda: self._seen.accounts.update({sender: account}))
