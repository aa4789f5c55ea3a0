"""The books of a sender: what it signed, what that was credited, what its credit is claimed by.

Shell over ``ledger/sender.py`` and the journal. A payment is on disk before it is returned, and asked for again it is
the same bytes, also after a restart. Knows no job but by its id, and sends nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import trio

from ledger.account import News, Pair, Standing, compare
from ledger.cover import Cover, CoverSource
from ledger.journal import Also, Begun, Transaction, Writes, nothing
from ledger.money import Settlement
from ledger.rows import DebitKey
from ledger.sender import ParamsSeen, Purse, SendingTerms, after, plan, sign_payment
from ledger.sender_rows import REFUSED, SETTLED, PaymentRow, SenderRows
from ledger.ticket import Payment, PaymentVerdict, Statement, TicketParams
from p2p.codec import decode_as, encode
from p2p.envelope import Signed, Signer, digest_of, open_signed
from p2p.errors import BadSignature, PeerFault, Refused
from p2p.peer import Address, address_of

_EMPTY = Purse()
MAX_ARRIVALS = 4096
LOST_AFTER_MS = 600_000  # as long as a seller keeps what it sold; then no session asks for a verdict any more
FEW_TICKETS = 4  # that are signed on trio's thread; more of them are a thread's


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call of ``pay``, with what only the shell can know: the time, the age of the params, our own cover."""

    payment_id: bytes
    recipient: Address
    amount: int
    params: TicketParams
    certain: bool
    job_id: bytes
    exposure: int | None
    alive: bool
    cover: Cover
    now_ms: int


@dataclass
class _Seen:
    """What is read without waiting: purses and standings as of the last commit."""

    purses: dict[Address, Purse] = field(default_factory=dict)
    standings: dict[Address, Standing] = field(default_factory=dict)
    rolled_back: set[Address] = field(default_factory=set)


class SendingBooks:
    """Every wei that was signed away is in the journal first; no chance is signed twice."""

    def __init__(
        self,
        journal: Writes,
        signer: Signer,
        settlement: Settlement,
        cover: CoverSource,
        terms: SendingTerms | None = None,
        *,
        clock: Callable[[], float] = trio.current_time,
        wall_time: Callable[[], float] = time.time,
    ) -> None:
        self.terms = terms or SendingTerms()
        self._journal, self._signer, self._settlement, self._cover = journal, signer, settlement, cover
        self._clock, self._wall_time = clock, wall_time
        self._arrived: dict[bytes, float] = {}
        self._seen = _Seen()

    async def load(self) -> None:
        """Read what ``credit_with`` and ``exposure`` answer from. Once, at the start."""
        await self._journal.write(self._load)

    def learn(self, params: TicketParams) -> None:
        """Params arrived now: their life begins. Said by whoever receives them; else it begins when they are used."""
        self._arrived.setdefault(params.params_id, self._clock())
        while len(self._arrived) > MAX_ARRIVALS:
            del self._arrived[next(iter(self._arrived))]

    async def pay(
        self,
        payment_id: bytes,
        recipient: Address,
        amount: int,
        params: TicketParams,
        *,
        certain: bool = False,
        job_id: bytes = b"",
        exposure: int | None = None,
    ) -> Payment:
        """A payment that covers ``amount``, from credit with ``recipient`` first and by whole tickets for the rest.

        The same ``payment_id`` gives the same bytes, unless the recipient signed that it credited nothing for them;
        then it is made anew, under these params. ``certain`` demands params under which every ticket wins;
        ``exposure`` refuses what would put more than that at risk. ``job_id`` is what the credit is claimed for
        (without one, the payment itself). Raises Refused.
        """
        begun = await self.begin_payment(
            payment_id, recipient, amount, params, certain=certain, job_id=job_id, exposure=exposure
        )
        return await begun.wait()

    async def begin_payment(
        self,
        payment_id: bytes,
        recipient: Address,
        amount: int,
        params: TicketParams,
        *,
        certain: bool = False,
        job_id: bytes = b"",
        exposure: int | None = None,
    ) -> Begun[Payment]:
        """``pay``, handed in: applied, it may be written into other rows; it may leave when those are on disk."""
        self.learn(params)
        alive = self._clock() - self._arrived[params.params_id] < params.lives_for_ms / 1000
        ask = _Ask(
            payment_id,
            recipient,
            amount,
            params,
            certain,
            job_id or payment_id,
            exposure,
            alive,
            self._cover.deposit_of(self._signer.address),
            self._now_ms(),
        )
        short = amount <= FEW_TICKETS * params.value
        return await self._journal.begin(lambda tx: self._pay(tx, ask), short=short)

    async def settle(self, recipient: Address, verdict: PaymentVerdict, signed_by: Address) -> int:
        """Enter a recipient's verdict; how much it credited, 0 for what is late or about nothing of ours.

        ``signed_by``: who sent it, as the connection says. Raises BadSignature or PeerFault; nothing is entered then.
        """
        statement, author = open_signed(verdict.statement, Statement)
        if address_of(author) != recipient or signed_by != recipient:
            raise BadSignature("a verdict is signed by its recipient")
        pair = Pair(self._settlement, self._signer.address, recipient)
        named = (statement.payment_id, statement.credited) == (verdict.payment_id, verdict.credited)
        if not (pair.matches(statement) and named and statement.debit <= statement.credit):
            raise PeerFault("the verdict and its statement differ")
        if verdict.params is not None:
            self.learn(verdict.params)
        now_ms = self._now_ms()
        return await self._journal.write(lambda tx: self._settle(tx, recipient, verdict, statement, now_ms))

    async def debit(self, recipient: Address, job_id: bytes, attempt: int, amount: int, slice_: int = 0) -> int:
        """Delivered: ``amount`` of the credit is spent, once per slice; the credit left. Raises Refused NO_CREDIT."""
        key, now_ms = DebitKey(job_id, attempt, slice_), self._now_ms()
        return await self._journal.write(lambda tx: self._debit(tx, recipient, key, amount, now_ms))

    async def release(self, recipient: Address, job_id: bytes) -> None:
        """The job is over with this recipient: what it still claims is free credit."""
        await self._journal.write(lambda tx: self._release(tx, recipient, job_id))

    async def spent_on(self, job_id: bytes) -> int:
        """Wei spent on delivered work of a job; what was paid and not delivered is credit and not in it."""
        return await self._journal.write(lambda tx: self._rows(tx).debited_for(job_id))

    async def spent_since(self, seconds: float) -> int:
        """Wei spent on delivered work in the last ``seconds``."""
        since = self._now_ms() - int(seconds * 1000)
        return await self._journal.write(lambda tx: self._rows(tx).debited_since(since))

    async def proof(self, recipient: Address) -> Signed | None:
        """The recipient's newest statement, to show it when it forgot."""
        kept = await self._journal.write(lambda tx: self._rows(tx).signed_statement(recipient))
        return None if kept is None else decode_as(Signed, kept)

    def credit_with(self, recipient: Address) -> int:
        """Credit that a new payment to ``recipient`` would rest on before it takes tickets."""
        return self._seen.purses.get(recipient, _EMPTY).free

    def at_risk(self, recipient: Address) -> int:
        """What is lost if this recipient vanishes now: signed and unanswered, or credited and undelivered."""
        return self._seen.purses.get(recipient, _EMPTY).at_risk

    def at_risk_with_newcomers(self, delivered: int) -> int:
        """``at_risk`` over all recipients that have delivered less than ``delivered`` jobs."""
        purses = self._seen.purses.items()
        return sum(purse.at_risk for peer, purse in purses if self.standing(peer).delivered < delivered)

    def exposure(self, recipient: Address, small_job: int = 1) -> int:
        """The exposure limit, in whatever a small job is given in (in small jobs when it is not)."""
        return self.standing(recipient).limit(small_job)

    def standing(self, recipient: Address) -> Standing:
        return self._seen.standings.get(recipient, Standing())

    def rolled_back(self, recipient: Address) -> bool:
        """Whether this recipient signed an account that contradicts one it had signed before."""
        return recipient in self._seen.rolled_back

    async def record_delivered(self, recipient: Address, also: Also = nothing) -> None:
        """One more job was delivered. ``also`` is written in the same transaction: what it was that was counted."""
        await self._journal.write(lambda tx: self._judge(tx, recipient, Standing.after_delivery, also))

    async def record_fault(self, recipient: Address, also: Also = nothing) -> None:
        """A rule was broken. ``also`` as for a delivery."""
        await self._journal.write(lambda tx: self._judge(tx, recipient, Standing.after_fault, also))

    def _rows(self, tx: Transaction) -> SenderRows:
        return SenderRows(tx.db, str(self._settlement))

    def _now_ms(self) -> int:
        return int(self._wall_time() * 1000)

    def _load(self, tx: Transaction) -> None:
        rows = self._rows(tx)
        self._seen.purses = {peer: rows.purse(peer) for peer, _ in list(rows.accounts())}
        self._seen.standings = dict(rows.standings())

    def _pay(self, tx: Transaction, ask: _Ask) -> Payment:
        rows = self._rows(tx)
        row = rows.payment(ask.recipient, ask.payment_id)
        if row is not None:
            if row.state != REFUSED:
                return decode_as(Payment, row.payment)
            self._unclaim(rows, ask.recipient, row)
        if self.rolled_back(ask.recipient):
            raise Refused("ROLLED_BACK", "this recipient took back in one account what it had signed in another")
        if ask.params.recipient != ask.recipient:
            raise Refused("RECIPIENT_MISMATCH", "params of another recipient")
        fresh = ParamsSeen(digest_of(ask.params))
        seen = rows.params(ask.params.params_id) or fresh
        if seen.digest != fresh.digest:
            raise Refused("PARAMS_NOT_MINE", "other params came under the same rand before")
        purse = rows.purse(ask.recipient)
        planned = plan(
            ask.amount,
            ask.params,
            settlement=self._settlement,
            seen=seen,
            purse=purse,
            cover=ask.cover,
            terms=self.terms,
            alive=ask.alive,
            certain=ask.certain,
            exposure=ask.exposure,
        )
        payment = sign_payment(ask.payment_id, planned, ask.params, self._signer)
        if planned.nonces:
            rows.put_params(ask.params.params_id, after(planned, seen), ask.now_ms)
        rows.put_account(ask.recipient, purse.account)
        rows.put_payment(ask.recipient, payment, planned, ask.job_id, ask.now_ms)
        rows.put_claim(ask.recipient, ask.job_id, rows.claim(ask.recipient, ask.job_id) + planned.from_credit)
        claimed, in_flight = purse.claimed + planned.from_credit, purse.in_flight + planned.value
        self._show_purse(tx, ask.recipient, replace(purse, claimed=claimed, in_flight=in_flight))
        return payment

    def _settle(
        self, tx: Transaction, recipient: Address, verdict: PaymentVerdict, statement: Statement, now_ms: int
    ) -> int:
        rows = self._rows(tx)
        row = rows.payment(recipient, verdict.payment_id)
        if row is None:
            return 0
        self._keep_statement(tx, rows, recipient, statement, encode(verdict.statement))
        credited = self._enter(rows, recipient, verdict, statement, row) if row.state != SETTLED else row.credited
        self._find_lost(rows, recipient, statement, now_ms)
        self._show(tx, rows, recipient)
        return credited

    def _enter(
        self, rows: SenderRows, recipient: Address, verdict: PaymentVerdict, statement: Statement, row: PaymentRow
    ) -> int:
        credited = min(statement.credited, row.value)
        if credited == 0 and (row.value == 0 or statement.payment_digest == row.digest):
            rows.close_payment(recipient, verdict.payment_id, SETTLED if row.value == 0 else REFUSED, 0)
        elif credited:
            rows.close_payment(recipient, verdict.payment_id, SETTLED, credited)
            rows.put_account(recipient, rows.account(recipient).credited(credited))
            claimed = min(credited, row.amount - row.from_credit)
            rows.put_claim(recipient, row.job_id, rows.claim(recipient, row.job_id) + claimed)
        return credited

    def _find_lost(self, rows: SenderRows, recipient: Address, statement: Statement, now_ms: int) -> None:
        """Verdicts get lost, sums do not: one with room for every open payment says that all of them were credited.

        Payments that nobody waits for any more are entered then, as credit that no job claims.
        """
        missing, unanswered = statement.credit - rows.account(recipient).credit, rows.open_payments(recipient)
        if missing < sum(value for _, value, _ in unanswered):
            return
        for payment_id, value, at_ms in unanswered:
            if now_ms - at_ms > LOST_AFTER_MS:
                rows.close_payment(recipient, payment_id, SETTLED, value)
                rows.put_account(recipient, rows.account(recipient).credited(value))

    def _debit(self, tx: Transaction, recipient: Address, key: DebitKey, amount: int, now_ms: int) -> int:
        rows = self._rows(tx)
        account = rows.account(recipient)
        if rows.debit(recipient, key) is None:
            claim, purse = rows.claim(recipient, key.job_id), rows.purse(recipient)
            others = purse.claimed - claim
            if amount > account.balance - others:
                raise Refused("NO_CREDIT", "the job was not paid for", have=account.balance - others, need=amount)
            account = account.debited(amount)
            rows.put_debit(recipient, key, amount, now_ms)
            rows.put_account(recipient, account)
            rows.put_claim(recipient, key.job_id, max(0, claim - amount))
            self._show(tx, rows, recipient)
        return account.balance

    def _release(self, tx: Transaction, recipient: Address, job_id: bytes) -> None:
        rows = self._rows(tx)
        rows.put_claim(recipient, job_id, 0)
        self._show(tx, rows, recipient)

    def _judge(self, tx: Transaction, recipient: Address, change: Callable[[Standing], Standing], also: Also) -> None:
        also(tx)
        rows = self._rows(tx)
        standing = change(rows.standing(recipient))
        rows.put_standing(recipient, standing)
        tx.after_commit(lambda: self._seen.standings.update({recipient: standing}))

    def _unclaim(self, rows: SenderRows, recipient: Address, row: PaymentRow) -> None:
        """A payment is about to be replaced: the credit it rested on is free again for the new one."""
        claim = rows.claim(recipient, row.job_id)
        rows.put_claim(recipient, row.job_id, max(0, claim - row.from_credit))

    def _keep_statement(
        self, tx: Transaction, rows: SenderRows, recipient: Address, statement: Statement, signed: bytes
    ) -> None:
        news = compare(rows.statement(recipient), statement)
        if news is News.NEWER:
            rows.put_statement(recipient, signed)
        elif news is News.ROLLED_BACK:
            tx.after_commit(lambda: self._seen.rolled_back.add(recipient))

    def _show(self, tx: Transaction, rows: SenderRows, recipient: Address) -> None:
        self._show_purse(tx, recipient, rows.purse(recipient))

    def _show_purse(self, tx: Transaction, recipient: Address, purse: Purse) -> None:
        tx.after_commit(lambda: self._seen.purses.update({recipient: purse}))
