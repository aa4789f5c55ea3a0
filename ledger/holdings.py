"""Holdings: what one key owns, owes and is owed at one settlement, as journal and chain know it at a moment.

Shell: reads, and changes nothing. Knows no job; a counterpart is an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import trio

from ledger.account import Standing
from ledger.chain import Chain
from ledger.journal import Transaction, Writes
from ledger.money import Amount, Settlement
from ledger.recipient_rows import RecipientRows
from ledger.schema import of_wei
from ledger.sender_rows import SenderRows
from p2p.codec import U32, U64, Size, Wei, message
from p2p.errors import Unavailable
from p2p.peer import Address, WireAddress, address_text

MAX_COUNTERPARTS = 1000
LOOK_SECONDS = 3.0  # a chain that does not answer in time is told as it was last seen


@dataclass(frozen=True, slots=True)
class Counterpart:
    """The account with one peer. ``incoming``: it pays us. Exposure is counted in small jobs."""

    peer: WireAddress
    incoming: bool
    credit: Amount
    debit: Amount
    claimed: Amount  # of the credit, by jobs that are under way
    in_flight: Amount  # signed away and not answered yet
    at_risk: Amount  # lost if it vanished now
    unredeemed: Amount  # face values that its deposit has yet to pay
    exposure: U32
    delivered: U32
    faults: U32

    @property
    def balance(self) -> int:
        return self.credit - self.debit


@dataclass(frozen=True, slots=True)
class TicketCount:
    """Some tickets, and their face values together."""

    count: U64 = 0
    wei: Wei = 0


@dataclass(frozen=True, slots=True)
class Tickets:
    """Winning tickets received, by what became of them, and payments signed."""

    redeemed: TicketCount
    pending: TicketCount
    lost: TicketCount
    payments_sent: TicketCount  # payments, and what they are worth
    payments_unanswered: U64

    @property
    def won(self) -> TicketCount:
        parts = (self.redeemed, self.pending, self.lost)
        return TicketCount(sum(p.count for p in parts), sum(p.wei for p in parts))


@message("holdings", 1)
@dataclass(frozen=True, slots=True)
class Holdings:
    """``balance`` and ``fees`` are None when the chain does not answer; then ``online`` is false."""

    address: WireAddress
    settlement: Settlement
    development: bool
    online: bool
    balance: Wei | None
    fees: Wei | None
    deposit: Wei
    reserve: Wei
    withdraw_round: U64
    counterparts: Annotated[tuple[Counterpart, ...], Size(0, MAX_COUNTERPARTS)]
    counterparts_left_out: U64
    tickets: Tickets

    def as_dict(self) -> dict[str, object]:
        """For JSON: snake_case, wei as whole numbers."""
        return {
            "address": address_text(self.address),
            "chain_id": self.settlement.chain_id,
            "broker": address_text(self.settlement.broker),
            "development": self.development,
            "online": self.online,
            "balance_wei": self.balance,
            "fees_wei": self.fees,
            "deposit_wei": self.deposit,
            "reserve_wei": self.reserve,
            "withdraw_round": self.withdraw_round or None,
            "tickets": {
                "won": self.tickets.won.count,
                "won_wei": self.tickets.won.wei,
                "redeemed": self.tickets.redeemed.count,
                "redeemed_wei": self.tickets.redeemed.wei,
                "pending": self.tickets.pending.count,
                "pending_wei": self.tickets.pending.wei,
                "lost": self.tickets.lost.count,
                "payments_sent": self.tickets.payments_sent.count,
                "payments_sent_wei": self.tickets.payments_sent.wei,
                "payments_unanswered": self.tickets.payments_unanswered,
            },
            "counterparts": [_counterpart_dict(one) for one in self.counterparts],
            "counterparts_left_out": self.counterparts_left_out,
        }


def _counterpart_dict(one: Counterpart) -> dict[str, object]:
    return {
        "address": address_text(one.peer),
        "direction": "in" if one.incoming else "out",
        "credit_wei": one.balance,
        "credited_wei": one.credit,
        "debited_wei": one.debit,
        "claimed_wei": one.claimed,
        "in_flight_wei": one.in_flight,
        "at_risk_wei": one.at_risk,
        "unredeemed_wei": one.unredeemed,
        "exposure_small_jobs": one.exposure,
        "delivered": one.delivered,
        "faults": one.faults,
    }


async def read_holdings(chain: Chain, journal: Writes, address: Address) -> Holdings:
    """Everything at once. A chain that does not answer delays it by LOOK_SECONDS at most."""
    balance = fees = None
    with trio.move_on_after(LOOK_SECONDS):
        try:
            await chain.refresh([address])
            balance, fees = await chain.balance_of(address), await chain.fees_of(address)
        except Unavailable:
            balance = fees = None
    name = str(chain.settlement)
    counterparts, tickets = await journal.write(lambda tx: (_counterparts(tx, name), _tickets(tx, name)))
    cover = chain.deposit_of(address)
    return Holdings(
        address=address,
        settlement=chain.settlement,
        development=chain.development,
        online=fees is not None,
        balance=balance,
        fees=fees,
        deposit=cover.deposit,
        reserve=cover.reserve,
        withdraw_round=cover.withdraw_round,
        counterparts=counterparts[:MAX_COUNTERPARTS],
        counterparts_left_out=max(0, len(counterparts) - MAX_COUNTERPARTS),
        tickets=tickets,
    )


def _counterparts(tx: Transaction, settlement: str) -> tuple[Counterpart, ...]:
    """Those with the most credit first."""
    found = [*_payers(RecipientRows(tx.db, settlement)), *_paid(SenderRows(tx.db, settlement))]
    return tuple(sorted(found, key=lambda one: (-one.balance, one.peer, one.incoming)))


def _payers(rows: RecipientRows) -> Iterator[Counterpart]:
    accounts, standings = dict(rows.accounts()), dict(rows.standings())
    for peer in accounts.keys() | standings.keys():
        account, standing = rows.account(peer), standings.get(peer, Standing())
        sums = (account.credit, account.debit, 0, 0, 0, rows.unredeemed(peer))
        yield Counterpart(peer, True, *sums, standing.limit(), standing.delivered, standing.faults)


def _paid(rows: SenderRows) -> Iterator[Counterpart]:
    accounts, standings = dict(rows.accounts()), dict(rows.standings())
    for peer in accounts.keys() | standings.keys():
        purse, standing = rows.purse(peer), standings.get(peer, Standing())
        sums = (purse.account.credit, purse.account.debit, purse.claimed, purse.in_flight, purse.at_risk, 0)
        yield Counterpart(peer, False, *sums, standing.limit(), standing.delivered, standing.faults)


def _tickets(tx: Transaction, settlement: str) -> Tickets:
    query = "SELECT state, count(*), wei_sum(face) FROM winners WHERE settlement = ? GROUP BY state"
    states = {state: TicketCount(n, of_wei(face)) for state, n, face in tx.db.execute(query, (settlement,))}
    query = "SELECT count(*), wei_sum(value), count(*) FILTER (WHERE state = 'signed') FROM payments_out"
    sent, worth, open_ = tx.db.execute(f"{query} WHERE settlement = ?", (settlement,)).fetchone()
    waiting, submitted = states.get("pending", TicketCount()), states.get("submitted", TicketCount())
    pending = TicketCount(waiting.count + submitted.count, waiting.wei + submitted.wei)
    return Tickets(
        redeemed=states.get("confirmed", TicketCount()),
        pending=pending,
        lost=states.get("failed", TicketCount()),
        payments_sent=TicketCount(sent, of_wei(worth)),
        payments_unanswered=open_,
    )
