"""Blocks, receipts and logs of py-evm in the JSON shapes of Ethereum's RPC. Knows no chain; dresses values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rlp  # type: ignore[import-untyped]

from p2p.errors import Refused
from p2p.peer import Address, address_text, keccak256


class Reverted(Refused):
    """A call or an estimate that the contract reverted. ``data`` is what it gave as the reason, ABI-encoded."""

    def __init__(self, data: bytes) -> None:
        super().__init__("REVERTED", revert_text(data))
        self.data = data


def revert_text(data: bytes) -> str:
    """The text of Error(string), or nothing."""
    if data[:4] != b"\x08\xc3\x79\xa0" or len(data) < 68:
        return ""
    size = int.from_bytes(data[36:68], "big")
    return data[68 : 68 + min(size, 1024)].decode(errors="replace")


@dataclass(slots=True)
class LogEntry:
    """A log in its place, with the shape that is shown."""

    block: int
    address: bytes
    topics: tuple[bytes, ...]
    shape: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which logs: blocks both included; a topic position matches when it is empty or names the topic."""

    first: int
    last: int
    addresses: frozenset[bytes] = frozenset()
    topics: tuple[frozenset[bytes], ...] = ()

    def matches(self, log: LogEntry) -> bool:
        if self.addresses and log.address not in self.addresses:
            return False
        if len(log.topics) < len(self.topics):
            return False
        return all(not wanted or topic in wanted for wanted, topic in zip(self.topics, log.topics, strict=False))


def hexed(value: int | bytes) -> str:
    """A quantity or bytes as the RPC writes them."""
    return hex(value) if isinstance(value, int) else "0x" + bytes(value).hex()


def block_shape(block: Any) -> dict[str, Any]:
    header = block.header
    return {
        "number": hexed(header.block_number),
        "hash": hexed(header.hash),
        "parentHash": hexed(header.parent_hash),
        "timestamp": hexed(header.timestamp),
        "gasLimit": hexed(header.gas_limit),
        "gasUsed": hexed(header.gas_used),
        "baseFeePerGas": hexed(header.base_fee_per_gas),
        "miner": address_text(Address(bytes(header.coinbase))),
        "extraData": hexed(header.extra_data),
        "stateRoot": hexed(header.state_root),
        "transactions": [hexed(t.hash) for t in block.transactions],
    }


def receipt_shape(
    block: Any, index: int, transaction: Any, receipt: Any, computation: Any, used_before: int
) -> dict[str, Any]:
    base_fee = block.header.base_fee_per_gas
    created = not transaction.to
    address = keccak256(rlp.encode([transaction.sender, transaction.nonce]))[12:] if created else b""
    return {
        "transactionHash": hexed(transaction.hash),
        "transactionIndex": hexed(index),
        "blockHash": hexed(block.hash),
        "blockNumber": hexed(block.number),
        "from": address_text(Address(bytes(transaction.sender))),
        "to": None if created else address_text(Address(bytes(transaction.to))),
        "contractAddress": address_text(Address(address)) if created else None,
        "gasUsed": hexed(receipt.gas_used - used_before),
        "cumulativeGasUsed": hexed(receipt.gas_used),
        "effectiveGasPrice": hexed(min(transaction.max_fee_per_gas, base_fee + transaction.max_priority_fee_per_gas)),
        "status": "0x0" if computation.is_error else "0x1",
        "logs": [],
        "logsBloom": hexed(receipt.bloom.to_bytes(256, "big")),
        "type": "0x2",
    }


def log_shape(receipt: dict[str, Any], log: Any, topics: tuple[bytes, ...], index: int) -> dict[str, Any]:
    return {
        "address": address_text(Address(bytes(log.address))),
        "topics": [hexed(topic) for topic in topics],
        "data": hexed(log.data),
        "blockNumber": receipt["blockNumber"],
        "blockHash": receipt["blockHash"],
        "transactionHash": receipt["transactionHash"],
        "transactionIndex": receipt["transactionIndex"],
        "logIndex": hexed(index),
        "removed": False,
    }
