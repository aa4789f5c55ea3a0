"""Chains for tests: keys, tickets, the real contract on a real EVM as a Broker, and its RPC without a socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.broker import BrokerTerms, Reverted, SenderInfo
from ledger.contract import batch_data, call_data, event_of, redeem_data, result_of
from ledger.devchain import DevelopmentChain, FaucetKey
from ledger.evm_shapes import Reverted as EvmReverted
from ledger.rpc import Request, RpcRefused
from ledger.ticket import CERTAIN, Ticket, Winner, signing_digest, ticket_hash
from ledger.transactions import Call
from p2p.errors import Unavailable
from p2p.peer import Address, keccak256

START = 1_800_000_000
ETHER = 10**18
CHAIN_ID = 1_337_000_007


def key(number: int) -> FaucetKey:
    return FaucetKey(keccak256(b"test key %d" % number))


@dataclass
class Clock:
    """Seconds, moved by hand."""

    now: int = START

    def __call__(self) -> int:
        return self.now


def ticket_of(
    sender: Address, recipient: Address, face: int, round_: tuple[int, bytes], *, nonce: int = 1, chance: int = CERTAIN
) -> tuple[Ticket, bytes]:
    """An unsigned ticket and its rand; the same arguments give the same."""
    rand = keccak256(b"rand %d" % nonce)
    return Ticket(recipient, sender, face, chance, nonce, keccak256(rand), *round_), rand


def signed(ticket: Ticket, rand: bytes, signer: FaucetKey) -> Winner:
    return Winner(ticket, signer.sign(signing_digest(ticket_hash(ticket))), rand, 0)


class EvmBroker:
    """The compiled contract on py-evm. Each call is a transaction in a block of its own at ``now``."""

    def __init__(self, terms: BrokerTerms, now: int = START, keys: Sequence[FaucetKey] = ()) -> None:
        self.terms = terms
        self._clock = Clock(now)
        self.chain = DevelopmentChain(CHAIN_ID, keccak256(b"faucet"), terms, self._clock)
        self.address = self.chain.settlement.broker
        self._keys = {k.address: k for k in keys}
        for k in keys:
            self.chain.evm.fund(k.address, 1000 * ETHER)
        self.chain.mine()
        self.gas: list[int] = []
        self.events: list[str] = []

    def fund(self, sender: Address, deposit: int, reserve: int, now: int, *, by: Address | None = None) -> None:
        value = deposit + reserve
        if by is None or by == sender:
            self._do(sender, call_data("fundDepositAndReserve", deposit, reserve), now, value)
        else:
            self._do(by, call_data("fundDepositAndReserveFor", sender, deposit, reserve), now, value)

    def unlock(self, sender: Address, now: int) -> None:
        self._do(sender, call_data("unlock"), now)

    def cancel_unlock(self, sender: Address, now: int) -> None:
        self._do(sender, call_data("cancelUnlock"), now)

    def withdraw(self, sender: Address, now: int) -> int:
        had = self.chain.evm.balance_of(self.address)
        self._do(sender, call_data("withdraw"), now)
        return had - self.chain.evm.balance_of(self.address)

    def redeem(self, winner: Winner, now: int) -> None:
        self._do(next(iter(self._keys)), redeem_data(winner), now)

    def redeem_batch(self, winners: Sequence[Winner], now: int) -> list[bool]:
        receipt = self._do(next(iter(self._keys)), batch_data(winners), now)
        events = [event_of(log) for log in receipt["logs"]]
        paid = [e.fields["recipientRand"] for e in events if e and e.name == "WinningTicketRedeemed"]
        found = []
        for winner in winners:  # a repeat within a batch is paid once
            rand = int.from_bytes(winner.rand, "big")
            found.append(rand in paid)
            if rand in paid:
                paid.remove(rand)
        return found

    def withdraw_fees(self, recipient: Address, amount: int, now: int) -> None:
        self._do(recipient, call_data("withdrawFees", recipient, amount), now)

    def info(self, sender: Address) -> SenderInfo:
        (deposit, withdraw_round), (reserve, _) = self.view("getSenderInfo", sender)
        return SenderInfo(deposit, reserve, withdraw_round)

    def fees_of(self, recipient: Address) -> int:
        return int(self.view("fees", recipient))

    def is_used(self, hash_: bytes) -> bool:
        return bool(self.view("usedTickets", hash_))

    def round_hash(self, number: int) -> bytes | None:
        found: bytes = self.view("blockHashForRound", number)
        return found if any(found) else None

    def view(self, function: str, *arguments: Any) -> Any:
        call = Call(self.address, call_data(function, *arguments))
        return result_of(function, self.chain.evm.call(Address(bytes(20)), call, self._clock.now))

    def send(self, sender: Address, data: bytes, now: int, value: int = 0) -> dict[str, Any]:
        """Any call of the contract as a transaction. Raises Reverted."""
        return self._do(sender, data, now, value)

    def _do(self, sender: Address, data: bytes, now: int, value: int = 0) -> dict[str, Any]:
        self._clock.now = max(now, self._clock.now)
        evm, call = self.chain.evm, Call(self.address, data, value)
        try:
            gas = evm.estimate(sender, call, self._clock.now)
        except EvmReverted as exc:
            raise Reverted(exc.hint) from exc
        sent = evm.send_as(self._keys[sender], Call(self.address, data, value, gas))
        self.chain.mine()
        receipt = evm.receipt(sent)
        assert receipt is not None
        assert receipt["status"] == "0x1"
        self.gas.append(int(receipt["gasUsed"], 16))
        self.events = [e.name for log in receipt["logs"] if (e := event_of(log))]
        return receipt


class DirectRpc:
    """A node without a socket. Every transaction is mined at once, unless ``mining`` is off; ``down`` unplugs it."""

    def __init__(self, chain: DevelopmentChain) -> None:
        self.chain = chain
        self.mining, self.down = True, False
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda method: None

    def __str__(self) -> str:
        return "direct"

    async def batch(self, calls: Sequence[Request]) -> list[Any]:
        if self.down:
            raise Unavailable("unplugged")
        body = [{"jsonrpc": "2.0", "id": n, "method": m, "params": list(p)} for n, (m, p) in enumerate(calls)]
        for method, _ in calls:
            self.before(method)
            self.asked.append(method)
        answers = json.loads(self.chain.rpc.answer(json.dumps(body).encode()))
        if self.mining and any(method in ("eth_sendRawTransaction", "pasar_fund") for method, _ in calls):
            self.chain.mine()
        return [
            RpcRefused(a["error"]["code"], a["error"]["message"], a["error"].get("data", "")) if "error" in a
            else a["result"] for a in answers
        ]  # fmt: skip


def direct(terms: BrokerTerms | None = None, clock: Clock | None = None, chain_id: int = CHAIN_ID) -> DirectRpc:
    """A fresh chain with a broker, on a clock that stands still."""
    return DirectRpc(DevelopmentChain(chain_id, keccak256(b"faucet"), terms or BrokerTerms(), clock or Clock()))
