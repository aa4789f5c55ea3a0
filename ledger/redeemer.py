"""Turns winning tickets into money: rehearse, redeem in batches, remember what became of each.

A winner is redeemed only after its params are over, since redemption tells their rand to everybody. Every state is in
the journal before the step that it names, so that a restart at any line neither loses a ticket nor counts one twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from ledger.broker import Reverted
from ledger.chain import Chain
from ledger.money import wei_text
from ledger.redemption import Costs, Outcome, batch_of, outcome_of
from ledger.rpc import RpcRefused, ask
from ledger.ticket import Winner
from ledger.wallet import Wallet
from p2p.errors import Misconfigured, Refused, Unavailable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAX_PAUSE = 600.0
MAX_READ = 1000
WAIT_SECONDS = 30.0
PRICE_BLOCKS = 64

log = structlog.get_logger(__name__)


class Winners(Protocol):
    """Where winners are kept; ``ReceivingBooks`` is one. ``winners`` gives those whose params are over."""

    async def winners(self, most: int = 100, *, submitted: bool = False) -> tuple[Winner, ...]: ...
    async def submitting(self, hashes: Iterable[bytes], tx_hash: bytes = b"") -> None: ...
    async def confirmed(self, hashes: Iterable[bytes], tx_hash: bytes) -> None: ...
    async def retry(self, hashes: Iterable[bytes]) -> None: ...
    async def failed(self, hashes: Iterable[bytes], reason: str) -> None: ...


class Redeemer:
    """Redeems what is due, one transaction at a time. A ticket ends confirmed or failed, and neither ever changes."""

    def __init__(self, chain: Chain, wallet: Wallet, winners: Winners, costs: Costs | None = None) -> None:
        self._chain, self._wallet, self._winners = chain, wallet, winners
        self._costs = costs or Costs()
        self._later: dict[bytes, float] = {}  # the broker would not pay these now; not asked again before then

    def redemption_cost(self) -> int:
        """Wei that redeeming one ticket costs here, as measured; at first as gas would have it."""
        return self._costs.expected()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Trouble with the chain only ever makes it wait longer."""
        every = 1.0 if self._chain.development else 60.0
        pause = every
        with suppress(Unavailable):
            await self._price()  # the first params are issued with a cost in them
        task_status.started()
        while True:
            try:
                await self.keep_round_fresh()
                await self.redeem_due()
                pause = every
            except (Unavailable, Refused, Misconfigured) as exc:
                pause = min(pause * 2, MAX_PAUSE)
                log.warning("redemption waits", why=str(exc), seconds=pause)
            await trio.sleep(pause)

    async def redeem_due(self) -> int:
        """One round: how many tickets were paid. Raises Unavailable, or Refused for gas that cannot be paid."""
        await self._price()
        await self._settle_submitted()
        now = trio.current_time()
        self._later = {h: at for h, at in self._later.items() if at > now}
        waiting = [w for w in await self._winners.winners(MAX_READ) if w.ticket_hash not in self._later]
        ready = await self._sorted_out(self._batch(await self._without_expired(waiting)))
        batch = self._batch(ready)
        return await self._redeem(batch) if batch else 0

    async def keep_round_fresh(self) -> None:
        """Open a round when nobody did for so long that new tickets would have little time left."""
        if self._chain.round_is_stale:
            await self._wallet.initialize_round()

    async def _price(self) -> None:
        """The median base fee of the last blocks: a spike of minutes moves no face value."""
        try:
            history = await ask(self._chain.rpc, "eth_feeHistory", hex(PRICE_BLOCKS), "latest", [])
            fees = sorted(int(fee, 16) for fee in history["baseFeePerGas"])
            self._costs = self._costs.at_price(fees[len(fees) // 2])
        except (RpcRefused, KeyError, TypeError, ValueError, IndexError) as exc:
            raise Unavailable(f"the node tells no fees: {exc}") from exc

    async def _settle_submitted(self) -> None:
        """Tickets on their way when the process or the node went away: due again, unless the broker knows them paid."""
        open_ones = await self._winners.winners(MAX_READ, submitted=True)
        if open_ones:
            await self._wallet.resume()
            await self._winners.retry([w.ticket_hash for w in open_ones])

    def _batch(self, winners: Sequence[Winner]) -> tuple[Winner, ...]:
        return batch_of(winners, self._costs, self._chain.current_round, self._chain.terms.validity)

    async def _without_expired(self, winners: Sequence[Winner]) -> list[Winner]:
        """Tickets too small to be worth their gas end here: nobody rehearses them."""
        oldest = self._chain.current_round - self._chain.terms.validity
        expired = [w.ticket_hash for w in winners if w.ticket.creation_round <= oldest]
        if expired:
            await self._winners.failed(expired, "ticket is expired")
        return [w for w in winners if w.ticket.creation_round > oldest]

    async def _sorted_out(self, winners: Sequence[Winner]) -> list[Winner]:
        """Those that the broker would pay now; what is paid or dead already is closed."""
        if not winners:
            return []
        verdicts = await self._chain.rehearse(winners)
        ready: list[Winner] = []
        paid: list[bytes] = []
        for winner, verdict in zip(winners, verdicts, strict=True):
            reason = None if verdict is None else verdict.text if isinstance(verdict, Reverted) else "the node refuses"
            outcome = outcome_of(reason)
            if outcome is Outcome.READY:
                ready.append(winner)
            elif outcome is Outcome.PAID:
                paid.append(winner.ticket_hash)
            elif outcome is Outcome.WAIT:
                self._later[winner.ticket_hash] = trio.current_time() + WAIT_SECONDS
            else:
                log.warning("winning ticket lost", why=reason, face=wei_text(winner.ticket.face_value))
                await self._winners.failed([winner.ticket_hash], reason or "")
        if paid:
            await self._winners.confirmed(paid, b"")
        return ready

    async def _redeem(self, batch: Sequence[Winner]) -> int:
        hashes = [w.ticket_hash for w in batch]
        await self._winners.submitting(hashes)
        try:
            redeemed = await self._wallet.redeem(batch)
        except Unavailable:
            raise  # it may still be mined: they stay submitted until the chain says what became of them
        except Refused:
            await self._winners.retry(hashes)
            raise
        paid = [w.ticket_hash for w in batch if redeemed.has(w)]
        left = [w.ticket_hash for w in batch if not redeemed.has(w)]
        await self._winners.confirmed(paid, redeemed.mined.hash)
        if left:
            await self._winners.retry(left)
        self._costs = self._costs.after(redeemed.mined.cost, len(paid))
        earned = sum(w.ticket.face_value for w in batch if redeemed.has(w))
        log.info("tickets redeemed", tickets=len(paid), earned_wei=earned, cost_wei=redeemed.mined.cost)
        return len(paid)
