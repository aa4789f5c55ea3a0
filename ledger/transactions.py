"""Ethereum transactions of the fee-market type (EIP-1559), encoded and signed.

Pure: whoever signs hands in a ``Signer``, so that a key never leaves its holder. Knows no node and no contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import rlp  # type: ignore[import-untyped]

from p2p.envelope import Signer
from p2p.peer import Address, keccak256

_TYPE = b"\x02"


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does: ``to`` None deploys ``data``. ``gas`` 0 is not decided yet."""

    to: Address | None
    data: bytes = b""
    value: int = 0
    gas: int = 0


def signed_transaction(signer: Signer, chain_id: int, nonce: int, call: Call, max_fee: int, tip: int) -> bytes:
    """The raw bytes that ``eth_sendRawTransaction`` takes; keccak256 of them is the transaction's hash."""
    body: list[object] = [chain_id, nonce, tip, max_fee, call.gas, call.to or b"", call.value, call.data, []]
    signature = signer.sign(keccak256(_TYPE + rlp.encode(body)))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    raw: bytes = _TYPE + rlp.encode([*body, signature[64] - 27, r, s])
    return raw
