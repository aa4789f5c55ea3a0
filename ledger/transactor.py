"""Transactions of one key: each recorded before it leaves, sent until it is mined, bumped when it waits too long.

Nonces are our own: a node behind a load balancer miscounts them. The same signed bytes are sent again as often as need
be, which is harmless; new bytes under an old nonce only ever raise the fee. It knows no contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from ledger.broker import Reverted, is_development
from ledger.money import GWEI
from ledger.rpc import Rpc, RpcRefused, ask
from ledger.transactions import Call, signed_transaction
from ledger.txstore import SentTransaction, TransactionStore
from p2p.envelope import Signer
from p2p.errors import Refused, Unavailable
from p2p.peer import Address, address_text

MAX_FEE = 500 * GWEI
MAX_GAS = 25_000_000
BUMP_PERCENT = 113  # nodes ask for a tenth more on both fees
MAX_BUMPS = 6
_KNOWN = ("already known", "already imported", "known transaction", "alreadyknown")
_NONCE_LOW = ("nonce too low", "nonce is too low", "oldnonce")


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that is in the chain and, so deep, stays there. ``cost`` is all that it cost, in wei."""

    hash: bytes
    block: int
    succeeded: bool
    gas_used: int
    cost: int
    logs: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: between looks, for a block before a higher fee, in all; and how deep is final."""

    poll: float = 4.0
    bump_after: float = 90.0
    give_up: float = 900.0
    confirmations: int = 3

    @classmethod
    def of(cls, chain_id: int) -> Patience:
        return cls(0.25, 30.0, 120.0, 0) if is_development(chain_id) else cls()


class Transactor:
    """One key, one transaction at a time. A process lost between two lines loses no nonce and pays nothing twice."""

    def __init__(
        self, rpc: Rpc, chain_id: int, signer: Signer, store: TransactionStore, patience: Patience | None = None
    ) -> None:
        self._rpc, self._chain_id, self._signer, self._store = rpc, chain_id, signer, store
        self._patience = patience or Patience.of(chain_id)
        self._turn = trio.Lock()

    @property
    def address(self) -> Address:
        return self._signer.address

    async def send(self, call: Call) -> Mined:
        """Mine ``call``. Raises Reverted when the contract says no (before anything is sent, or on chain), Refused for
        missing gas money or a fee above the cap, Unavailable when there is no node or no block in time."""
        async with self._turn:
            await self._finish_open()
            gas = call.gas or await self._estimate(call)
            fee, tip = await self._fees()
            await self._afford(call.value + gas * fee)
            mined = await self._drive(Call(call.to, call.data, call.value, gas), fee, tip)
        if not mined.succeeded:
            raise Reverted("the transaction failed on chain")
        return mined

    async def finish_open(self) -> None:
        """See what was under way when the process ended last through to its end."""
        async with self._turn:
            await self._finish_open()

    # --- before

    async def _estimate(self, call: Call) -> int:
        request = {"from": address_text(self.address), "data": "0x" + call.data.hex(), "value": hex(call.value)}
        if call.to is not None:
            request["to"] = address_text(call.to)
        try:
            gas = int(await ask(self._rpc, "eth_estimateGas", request), 16)
        except RpcRefused as exc:
            raise refusal_of(exc) from exc
        if gas > MAX_GAS:
            raise Refused("GAS", "the call needs too much gas", have=MAX_GAS, need=gas)
        return gas * 6 // 5

    async def _fees(self) -> tuple[int, int]:
        """The most per gas, and the tip in it."""
        history = await ask(self._rpc, "eth_feeHistory", hex(8), "latest", [50])
        base = int(history["baseFeePerGas"][-1], 16)
        tips = sorted(int(block[0], 16) for block in history.get("reward") or [] if block)
        tip = 0 if is_development(self._chain_id) or not tips else tips[len(tips) // 2]
        if base + tip > MAX_FEE:
            raise Refused("FEE_TOO_HIGH", "gas costs more than the cap", have=MAX_FEE, need=base + tip)
        return min(2 * base + tip, MAX_FEE), tip

    async def _afford(self, need: int) -> None:
        have = int(await ask(self._rpc, "eth_getBalance", address_text(self.address), "latest"), 16)
        if have < need:
            raise Refused("GAS_MONEY", f"send wei to {address_text(self.address)}", have=have, need=need)

    # --- sending

    async def _drive(self, call: Call, fee: int, tip: int) -> Mined:
        nonce = max(await self._mined_count(), await self._store.next_nonce(self._chain_id, self.address))
        tries: list[SentTransaction] = []
        with trio.move_on_after(self._patience.give_up):
            for bump in range(MAX_BUMPS):
                sent = await self._sign(call, nonce, fee, tip)
                tries.append(sent)
                await self._broadcast(sent)
                wait = self._patience.bump_after if bump < MAX_BUMPS - 1 else self._patience.give_up
                if (mined := await self._wait(tries, wait)) is not None:
                    return mined
                if await self._mined_count() > nonce:
                    await self._store.end(sent, mined=False)
                    raise Unavailable("another program used this key and its nonce meanwhile")
                fee, tip = min(fee * BUMP_PERCENT // 100 + 1, MAX_FEE), tip * BUMP_PERCENT // 100 + 1
        raise Unavailable(f"the transaction with nonce {nonce} is not mined yet; it is finished before the next one")

    async def _sign(self, call: Call, nonce: int, fee: int, tip: int) -> SentTransaction:
        raw = signed_transaction(self._signer, self._chain_id, nonce, call, fee, min(tip, fee))
        sent = SentTransaction(self._chain_id, self.address, nonce, raw)
        await self._store.record(sent)
        return sent

    async def _broadcast(self, sent: SentTransaction) -> None:
        """What the node already has is as good as sent. Raises Refused when it never will take these bytes."""
        try:
            await ask(self._rpc, "eth_sendRawTransaction", "0x" + sent.raw.hex())
        except RpcRefused as exc:
            text = exc.text.lower()
            if not any(word in text for word in (*_KNOWN, *_NONCE_LOW, "underpriced")):
                await self._store.end(sent, mined=False)
                raise refusal_of(exc) from exc
        except Unavailable:
            return  # it may have arrived: the receipt will tell, and the same bytes go out again

    async def _wait(self, tries: Sequence[SentTransaction], seconds: float) -> Mined | None:
        """The one of several under a nonce that was mined, deep enough; None when none is in time."""
        with trio.move_on_after(seconds):
            while True:
                try:
                    mined = await self._look(tries)
                except Unavailable:
                    mined = None
                if mined is not None:
                    return mined
                await trio.sleep(self._patience.poll)
        return None

    async def _look(self, tries: Sequence[SentTransaction]) -> Mined | None:
        calls = [("eth_getTransactionReceipt", ["0x" + sent.hash.hex()]) for sent in tries]
        *receipts, head = await self._rpc.batch([*calls, ("eth_blockNumber", [])])
        for sent, receipt in zip(tries, receipts, strict=True):
            if isinstance(receipt, dict) and isinstance(head, str):
                mined = mined_of(receipt)
                if int(head, 16) - mined.block >= self._patience.confirmations:
                    await self._store.end(sent, mined=True)
                    return mined
                return None
        if await self._mined_count() <= tries[-1].nonce:
            await self._broadcast(tries[-1])  # also after a reorganisation took it out again
        return None

    async def _finish_open(self) -> None:
        by_nonce: dict[int, list[SentTransaction]] = {}
        for sent in await self._store.open_transactions(self._chain_id, self.address):
            by_nonce.setdefault(sent.nonce, []).append(sent)
        for nonce, tries in by_nonce.items():
            try:
                await self._broadcast(tries[-1])
            except Refused:
                continue  # the node will not have it any more: `_broadcast` closed the nonce
            if await self._wait(tries, self._patience.bump_after) is not None:
                continue
            if await self._mined_count() <= nonce:
                raise Unavailable(f"transaction {tries[-1].hash.hex()} is still not mined")
            await self._store.end(tries[-1], mined=False)

    async def _mined_count(self) -> int:
        return int(await ask(self._rpc, "eth_getTransactionCount", address_text(self.address), "latest"), 16)


def mined_of(receipt: dict[str, Any]) -> Mined:
    """A receipt with all that was paid: gas, and the data fee that roll-ups add."""
    gas = int(receipt["gasUsed"], 16)
    cost = gas * int(receipt["effectiveGasPrice"], 16) + int(receipt.get("l1Fee") or "0x0", 16)
    succeeded = receipt.get("status") == "0x1"
    hash_, block = bytes.fromhex(receipt["transactionHash"][2:]), int(receipt["blockNumber"], 16)
    return Mined(hash_, block, succeeded, gas, cost, tuple(receipt.get("logs") or ()))


def refusal_of(exc: RpcRefused) -> Refused:
    """What a node's error means: a contract's revert with its text, missing money, or just the node's words."""
    text = exc.text
    if "revert" in text.lower() or exc.number == 3:
        reason = text.split("execution reverted", 1)[-1].strip(": ")
        return Reverted(reason or "reverted")
    if "insufficient funds" in text.lower():
        return Refused("GAS_MONEY", text)
    return exc
