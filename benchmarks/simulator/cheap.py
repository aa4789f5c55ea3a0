"""Keyed hashes in the place of signatures, for simulations: the same shapes and the same checks, and cheap.

``Curve`` stands where ``p2p/peer.py`` and ``ledger/ticket.py`` use coincurve. A signature is a hash of the digest keyed
by its author's name, and the name itself, so that the author is recovered from it as from a real one, and whatever was
changed on the way recovers to nobody. It proves nothing against somebody who forges: nobody does in a simulation.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import Self

from p2p.peer import Address, PeerId, address_of, peer_of

_NAME = 32


def _mac(name: bytes, digest: bytes) -> bytes:
    return blake2b(digest, key=name, digest_size=32).digest()


class _PublicKey:
    """A name of 32 bytes that begins with a zero, so that it may stand where a low ``s`` belongs."""

    def __init__(self, data: bytes) -> None:
        if len(data) != 1 + _NAME or data[0] != 2 or data[1]:
            raise ValueError("no name")
        self._name = data[1:]

    def format(self, compressed: bool = True) -> bytes:
        if compressed:
            return b"\x02" + self._name
        return b"\x04" + self._name + _mac(self._name, b"the other half of the point")

    @classmethod
    def from_signature_and_message(cls, signature: bytes, message: bytes, hasher: None = None) -> Self:
        """Whose signature this is. Raises ValueError when it is nobody's."""
        name = signature[32:64]
        if len(signature) != 65 or signature[:32] != _mac(name, message):
            raise ValueError("no signature")
        return cls(b"\x02" + name)


class Curve:
    """What is used of the module ``coincurve``."""

    PublicKey = _PublicKey


class CheapKey:
    """A signer whose name is a number. Only to be used where ``Curve`` stands in."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._name = number.to_bytes(_NAME, "big")

    @cached_property
    def peer(self) -> PeerId:
        return peer_of(b"\x02" + self._name)

    @cached_property
    def address(self) -> Address:
        return address_of(self.peer)

    def sign(self, digest: bytes) -> bytes:
        return _mac(self._name, digest) + self._name + b"\x1b"
