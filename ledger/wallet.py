"""A key's own money on a chain: funding deposit and reserve, withdrawing, redeeming.

On a development chain, and only there, what is missing comes from the faucet; elsewhere the exact shortfall is named.
It knows no ticket's story and no job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ledger.chain import Chain
from ledger.contract import batch_data, call_data, event_of, redeem_data
from ledger.money import ETH, wei_text
from ledger.rpc import RpcRefused, ask
from ledger.ticket import Winner
from ledger.transactions import Call
from ledger.transactor import Mined, Patience, Transactor
from ledger.txstore import MemoryTransactions, TransactionStore
from p2p.envelope import Signer
from p2p.errors import Misconfigured, Unavailable
from p2p.peer import Address, address_text

FUND_GAS = 200_000
FAUCET_GAS_MONEY = ETH // 10
FAUCET_LIMIT = 1000 * ETH
FAUCET_LOOKS = 150  # half a minute


@dataclass(frozen=True, slots=True)
class Redeemed:
    """Which tickets a transaction paid, by the rand that each alone carries, and all that it cost."""

    mined: Mined
    paid: frozenset[tuple[Address, int, int]]

    def has(self, winner: Winner) -> bool:
        ticket = winner.ticket
        return (ticket.sender, ticket.nonce, int.from_bytes(winner.rand, "big")) in self.paid


class Wallet:
    """One key at one broker. Raises like ``Transactor.send``; what it changed, the chain knows when a call returns."""

    def __init__(
        self,
        chain: Chain,
        signer: Signer,
        store: TransactionStore | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._chain = chain
        chain_id = chain.settlement.chain_id
        self._transactor = Transactor(chain.rpc, chain_id, signer, store or MemoryTransactions(), patience)

    @property
    def address(self) -> Address:
        return self._transactor.address

    async def resume(self) -> None:
        """Finish what was under way when the process ended last."""
        await self._transactor.finish_open()

    async def fund(self, deposit: int, reserve: int) -> Mined:
        """Add to the own deposit and reserve; an unlock that was under way is cancelled by it."""
        mined = await self._send("fundDepositAndReserve", deposit, reserve, value=deposit + reserve)
        await self._chain.refresh([self.address])
        return mined

    async def deposit(self, deposit: int, reserve: int = 0) -> Mined:
        """Like ``fund``, and on a development chain the faucet gives what is missing.

        Elsewhere raises Misconfigured with the exact shortfall.
        """
        need = deposit + reserve + FAUCET_GAS_MONEY
        if self._chain.development:
            await self._from_faucet(need)
        elif (have := await self._chain.balance_of(self.address)) < deposit + reserve:
            short = wei_text(deposit + reserve - have)
            raise Misconfigured(f"{address_text(self.address)} lacks {short}, and gas: send it that much first")
        return await self.fund(deposit, reserve)

    async def unlock(self) -> Mined:
        return await self._refreshed(await self._send("unlock"))

    async def cancel_unlock(self) -> Mined:
        return await self._refreshed(await self._send("cancelUnlock"))

    async def withdraw(self) -> Mined:
        """Take the whole deposit and reserve back, once the unlock is over."""
        return await self._refreshed(await self._send("withdraw"))

    async def withdraw_fees(self, to: Address, amount: int) -> Mined:
        """Earnings of the own address, sent anywhere."""
        return await self._send("withdrawFees", to, amount)

    async def initialize_round(self) -> Mined:
        """Give the current round its hash, when nobody else did for long."""
        return await self._refreshed(await self._send("initializeRound"))

    async def redeem(self, winners: Sequence[Winner]) -> Redeemed:
        """Redeem in one transaction. Of several, those that fail are passed over; a single one raises Reverted."""
        data = redeem_data(winners[0]) if len(winners) == 1 else batch_data(winners)
        mined = await self._transactor.send(Call(self._chain.settlement.broker, data))
        paid = set()
        for log in mined.logs:
            event = event_of(log)
            if event is not None and event.name == "WinningTicketRedeemed":
                f = event.fields
                paid.add((Address(f["sender"]), int(f["senderNonce"]), int(f["recipientRand"])))
        return Redeemed(mined, frozenset(paid))

    async def ensure_funded(self, deposit: int, reserve: int = 0, gas_money: int = 0) -> None:
        """Have at least so much in the broker, and in hand for gas.

        On a development chain the faucet and a funding transaction make up for what is missing. Elsewhere raises
        Misconfigured with the shortfall and what to do. Raises Unavailable when the chain cannot be asked.
        """
        await self._chain.refresh([self.address])
        cover = self._chain.deposit_of(self.address)
        short = max(0, deposit - cover.deposit), max(0, reserve - cover.reserve)
        need = sum(short) + gas_money
        if not self._chain.development:
            self._must_have(short, need, await self._chain.balance_of(self.address))
            return
        await self._from_faucet(need + (FAUCET_GAS_MONEY if need else 0))
        if any(short):
            await self.fund(*short)

    def _must_have(self, short: tuple[int, int], need: int, have: int) -> None:
        who = address_text(self.address)
        if any(short):
            command = f"pasar wallet deposit {short[0]}wei" + (f" --reserve {short[1]}wei" if short[1] else "")
            raise Misconfigured(
                f"{who} lacks {wei_text(sum(short))} in the broker: run `{command}`"
                + (f" after sending it {wei_text(need - have)}" if have < need else "")
            )
        if have < need:
            raise Misconfigured(f"{who} lacks {wei_text(need - have)} for gas: send it that much")

    async def _from_faucet(self, need: int) -> None:
        have = await self._chain.balance_of(self.address)
        if have >= need:
            return
        if need - have > FAUCET_LIMIT:
            raise Misconfigured(
                f"the faucet gives at most {wei_text(FAUCET_LIMIT)}, {wei_text(need - have)} are missing"
            )
        try:
            await ask(self._chain.rpc, "pasar_fund", address_text(self.address), hex(need - have))
        except RpcRefused as exc:
            raise Unavailable(f"the faucet refuses: {exc.text}") from exc
        for _ in range(FAUCET_LOOKS):
            if await self._chain.balance_of(self.address) >= need:
                return
            await trio.sleep(0.2)
        raise Unavailable("the faucet's transfer is not mined: is the development chain making blocks?")

    async def _send(self, function: str, *arguments: object, value: int = 0) -> Mined:
        return await self._transactor.send(Call(self._chain.settlement.broker, call_data(function, *arguments), value))

    async def _refreshed(self, mined: Mined) -> Mined:
        await self._chain.refresh([self.address])
        return mined
