"""What is remembered of transactions: which bytes were signed under which nonce, and which nonces are done.

``TransactionStore`` is the seam; the journal keeps it on disk, ``MemoryTransactions`` for as long as the process lives.
It knows no node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from p2p.peer import Address, keccak256


@dataclass(frozen=True, slots=True)
class SentTransaction:
    """What was signed under one nonce."""

    chain_id: int
    key: Address
    nonce: int
    raw: bytes

    @property
    def hash(self) -> bytes:
        return keccak256(self.raw)


class TransactionStore(Protocol):
    """Remembers transactions beyond a restart. ``end`` closes a nonce: one of its transactions was mined, or none is
    to be any more. ``next_nonce`` is one above the highest that was mined."""

    async def next_nonce(self, chain_id: int, key: Address) -> int: ...
    async def record(self, sent: SentTransaction) -> None: ...
    async def end(self, sent: SentTransaction, *, mined: bool) -> None: ...
    async def open_transactions(self, chain_id: int, key: Address) -> Sequence[SentTransaction]: ...


def _place(sent: SentTransaction) -> tuple[int, Address, int]:
    return sent.chain_id, sent.key, sent.nonce


@dataclass
class MemoryTransactions:
    """A store that ends with the process."""

    sent: dict[bytes, SentTransaction] = field(default_factory=dict)
    ended: dict[bytes, bool] = field(default_factory=dict)

    async def next_nonce(self, chain_id: int, key: Address) -> int:
        mined = (self.sent[h] for h, was_mined in self.ended.items() if was_mined)
        return max((s.nonce + 1 for s in mined if (s.chain_id, s.key) == (chain_id, key)), default=0)

    async def record(self, sent: SentTransaction) -> None:
        self.sent[sent.hash] = sent
        self.ended.pop(sent.hash, None)

    async def end(self, sent: SentTransaction, *, mined: bool) -> None:
        same = [h for h, s in self.sent.items() if (s.chain_id, s.key, s.nonce) == _place(sent)]
        self.ended.update(dict.fromkeys(same, mined))

    async def open_transactions(self, chain_id: int, key: Address) -> Sequence[SentTransaction]:
        mine = (s for h, s in self.sent.items() if h not in self.ended and (s.chain_id, s.key) == (chain_id, key))
        return sorted(mine, key=lambda s: s.nonce)
