"""A chain of one process: py-evm, a pool of transactions, indexes of receipts and logs.

Synchronous and owned by one thread. Time is handed in, so that a test can pass a week in a line; keys and the chain id
are handed in as well. Answers are in the JSON shapes of Ethereum's RPC. It knows no socket and no broker.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth import constants
from eth.chains.base import MiningChain
from eth.db.atomic import AtomicDB
from eth.exceptions import Revert, VMError
from eth.vm.forks import CancunVM
from eth.vm.spoof import SpoofTransaction
from eth_utils.exceptions import ValidationError

from ledger.evm_shapes import LogEntry, LogFilter, Reverted, block_shape, log_shape, receipt_shape
from ledger.transactions import Call, signed_transaction
from p2p.envelope import Signer
from p2p.errors import Refused
from p2p.peer import Address

GAS_LIMIT = 30_000_000
BASE_FEE_FLOOR = 7  # where integer rounding ends the decay of EIP-1559
FAUCET_WEI = 10**9 * 10**18
MAX_POOL = 4096
MAX_RAW = 128 * 1024
MAX_LOGS = 10_000


@dataclass(slots=True)
class _Pooled:
    transaction: Any
    nonce: int
    fee: int


@dataclass(slots=True)
class _Indexes:
    receipts: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    logs: list[LogEntry] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)


class Evm:
    """A chain whose blocks are made by ``mine``. What a receipt names is final: there are no forks here."""

    def __init__(self, chain_id: int, faucet: Signer, now: int, extra_data: bytes = b"") -> None:
        state = {faucet.address: {"balance": FAUCET_WEI, "nonce": 0, "code": b"", "storage": {}}}
        genesis = {
            "coinbase": constants.ZERO_ADDRESS,
            "difficulty": 0,
            "extra_data": extra_data[:32],
            "gas_limit": GAS_LIMIT,
            "nonce": bytes(8),
            "mix_hash": constants.ZERO_HASH32,
            "timestamp": now,
        }
        kind: Any = type("DevelopmentChain", (_Chain,), {"chain_id": chain_id})
        self._chain: Any = kind.from_genesis(AtomicDB(), {**genesis, "base_fee_per_gas": BASE_FEE_FLOOR}, state)
        self.chain_id, self._faucet = chain_id, faucet
        self._pool: dict[bytes, list[_Pooled]] = {}
        self._indexes = _Indexes()

    # --- reading

    @property
    def number(self) -> int:
        """The newest mined block."""
        return int(self._chain.header.block_number) - 1

    def balance_of(self, address: bytes) -> int:
        return int(self._state().get_balance(address))

    def code_of(self, address: bytes) -> bytes:
        return bytes(self._state().get_code(address))

    def nonce_of(self, address: bytes, *, pending: bool = False) -> int:
        mined = int(self._state().get_nonce(address))
        return mined + (len(self._pool.get(address, ())) if pending else 0)

    def base_fee(self) -> int:
        return int(self._chain.header.base_fee_per_gas)

    def receipt(self, transaction_hash: bytes) -> dict[str, Any] | None:
        return self._indexes.receipts.get(transaction_hash)

    def header(self, number: int) -> dict[str, Any] | None:
        """A block without the bodies of its transactions."""
        if not 0 <= number <= self.number:
            return None
        block = self._chain.get_canonical_block_by_number(number)
        return block_shape(block)

    def number_of(self, block_hash: bytes) -> int | None:
        return self._indexes.numbers.get(block_hash)

    def logs(self, wanted: LogFilter) -> list[dict[str, Any]]:
        """Raises Refused when more than MAX_LOGS match."""
        entries = self._indexes.logs
        low = bisect_left(entries, wanted.first, key=lambda log: log.block)
        high = bisect_right(entries, wanted.last, key=lambda log: log.block)
        found = [log.shape for log in entries[low:high] if wanted.matches(log)]
        if len(found) > MAX_LOGS:
            raise Refused("TOO_MANY_LOGS", "ask for fewer blocks", have=len(found), need=MAX_LOGS)
        return found

    # --- running

    def call(self, sender: bytes, call: Call, now: int) -> bytes:
        """What the call would return in the next block. Raises Reverted, or Refused for any other failure."""
        return bytes(self._execute(sender, call, now).output)

    def estimate(self, sender: bytes, call: Call, now: int) -> int:
        """Gas for the call, with a fifth of headroom. Raises like ``call``."""
        computation = self._execute(sender, call, now)
        used = computation.get_gas_used() + self._intrinsic(call)
        return min(GAS_LIMIT, used * 6 // 5 + 5_000)

    def _execute(self, sender: bytes, call: Call, now: int) -> Any:
        plain = self._chain.create_unsigned_transaction(
            nonce=self.nonce_of(sender),
            gas_price=0,
            gas=min(call.gas or GAS_LIMIT, GAS_LIMIT),
            to=call.to or b"",
            value=call.value,
            data=call.data,
        )
        if call.value > self.balance_of(sender):
            raise Refused("INSUFFICIENT_FUNDS", have=self.balance_of(sender), need=call.value)
        try:
            with self._chain.get_vm(self._next_header(now)).in_costless_state() as state:
                computation = state.costless_execute_transaction(SpoofTransaction(plain, from_=sender))
        except (ValidationError, VMError) as exc:
            raise Refused("INVALID", str(exc)[:200]) from exc
        if computation.is_error:
            _raise_reverted(computation.error)
        return computation

    def _intrinsic(self, call: Call) -> int:
        zeros = call.data.count(0)
        base = 21_000 + 4 * zeros + 16 * (len(call.data) - zeros)
        return base if call.to else base + 32_000 + 2 * (len(call.data) // 32 + 1)

    # --- writing

    def send_raw(self, raw: bytes) -> bytes:
        """Take a signed transaction into the pool; its hash. Raises Refused with the reason in its code."""
        if len(raw) > MAX_RAW:
            raise Refused("TOO_LARGE", have=len(raw), need=MAX_RAW)
        transaction = self._decode(raw)
        if getattr(transaction, "chain_id", self.chain_id) != self.chain_id:
            raise Refused("WRONG_CHAIN", "invalid chain id for signer", have=transaction.chain_id, need=self.chain_id)
        if transaction.hash in self._indexes.receipts or self._pooled(transaction):
            raise Refused("ALREADY_KNOWN", "already known")
        self._admit(transaction)
        return bytes(transaction.hash)

    def _decode(self, raw: bytes) -> Any:
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            transaction.validate()
            transaction.check_signature_validity()
        except (ValidationError, rlp.exceptions.RLPException, ValueError, TypeError, IndexError) as exc:
            raise Refused("INVALID", f"no signed transaction: {str(exc)[:120]}") from exc
        return transaction

    def _pooled(self, transaction: Any) -> bool:
        return any(p.transaction.hash == transaction.hash for p in self._pool.get(transaction.sender, ()))

    def _admit(self, transaction: Any) -> None:
        sender, mined = transaction.sender, self.nonce_of(transaction.sender)
        queue = self._pool.setdefault(sender, [])
        fee = transaction.max_fee_per_gas
        place = transaction.nonce - mined
        if place < 0:
            raise Refused("NONCE_TOO_LOW", "nonce too low", have=transaction.nonce, need=mined)
        if place > len(queue) or sum(len(q) for q in self._pool.values()) >= MAX_POOL:
            raise Refused("NONCE_TOO_HIGH", "nonce too high, or the pool is full", have=transaction.nonce, need=mined)
        if fee < self.base_fee():
            raise Refused("FEE_TOO_LOW", "max fee per gas less than block base fee", have=fee, need=self.base_fee())
        cost = transaction.gas * fee + transaction.value
        if cost > self.balance_of(sender) or transaction.gas > GAS_LIMIT:
            raise Refused("INSUFFICIENT_FUNDS", "insufficient funds for gas * price + value",
                          have=self.balance_of(sender), need=cost)  # fmt: skip
        if place < len(queue) and fee * 10 < queue[place].fee * 11:
            raise Refused("UNDERPRICED", "replacement transaction underpriced", have=fee, need=queue[place].fee)
        queue[place : place + 1] = [_Pooled(transaction, transaction.nonce, fee)]

    def fund(self, to: Address, wei: int) -> bytes:
        """A transfer from the faucet; the hash of its transaction."""
        return self.send_as(self._faucet, Call(to, b"", wei, 21_000))

    def send_as(self, signer: Signer, call: Call) -> bytes:
        nonce = self.nonce_of(signer.address, pending=True)
        return self.send_raw(signed_transaction(signer, self.chain_id, nonce, call, self.base_fee() * 4, 0))

    def mine(self, now: int) -> int:
        """One block with everything in the pool that is valid and fits; its number."""
        self._chain.header = self._next_header(now)
        done: list[tuple[Any, Any, Any]] = []
        for sender in list(self._pool):
            self._mine_queue(sender, done)
        block = self._chain.mine_block()
        self._index(block, done)
        return int(block.number)

    def _mine_queue(self, sender: bytes, done: list[tuple[Any, Any, Any]]) -> None:
        queue = self._pool.pop(sender)
        for place, pooled in enumerate(queue):
            header = self._chain.header
            if header.gas_used + pooled.transaction.gas > header.gas_limit:
                self._pool[sender] = queue[place:]  # the next block has room
                return
            try:
                _, receipt, computation = self._chain.apply_transaction(pooled.transaction)
            except (ValidationError, VMError):
                return  # no longer affordable; what follows it in the queue cannot be mined either
            done.append((pooled.transaction, receipt, computation))

    def _next_header(self, now: int) -> Any:
        parent = self._chain.get_canonical_head()
        return self._chain.header.copy(timestamp=max(parent.timestamp + 1, now))

    def _state(self) -> Any:
        return self._chain.get_vm().state

    def _index(self, block: Any, done: list[tuple[Any, Any, Any]]) -> None:
        self._indexes.numbers[bytes(block.hash)] = int(block.number)
        used = 0
        for index, (transaction, receipt, computation) in enumerate(done):
            shape = receipt_shape(block, index, transaction, receipt, computation, used)
            used = receipt.gas_used
            for log in receipt.logs:
                topics = tuple(topic.to_bytes(32, "big") for topic in log.topics)
                entry = log_shape(shape, log, topics, len(shape["logs"]))
                shape["logs"].append(entry)
                self._indexes.logs.append(LogEntry(int(block.number), bytes(log.address), topics, entry))
            self._indexes.receipts[bytes(transaction.hash)] = shape


class _Chain(MiningChain):
    vm_configuration = ((0, CancunVM),)

    def create_header_from_parent(self, parent_header: Any, **header_params: Any) -> Any:
        return super().create_header_from_parent(parent_header, **{**header_params, "gas_limit": GAS_LIMIT})


def _raise_reverted(error: Exception) -> None:
    if isinstance(error, Revert):
        data = error.args[0] if error.args else b""
        raise Reverted(bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b"")
    raise Refused("FAILED", type(error).__name__)
