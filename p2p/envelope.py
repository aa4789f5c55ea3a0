"""Signed: a message with its author's signature, for what third parties relay or keep.

The signature covers keccak256(domain tag || encoded message), the tag naming kind and version, so that bytes signed
as one thing can never pass as another. The author is recovered from the signature. Pure: whoever signs hands in a
``Signer``; this module knows no key store and no message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

from p2p.codec import MAX_MESSAGE, Signature, Size, decode_as, encode, message, wire_name
from p2p.errors import BadSignature
from p2p.peer import Address, PeerId, keccak256, recover

T = TypeVar("T")


class Signer(Protocol):
    """Whoever holds the node's key. ``sign`` takes a 32-byte digest and gives r || s || v (65 bytes, v 27 or 28)."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def address(self) -> Address: ...
    def sign(self, digest: bytes) -> bytes: ...


@message("signed", 1)
@dataclass(frozen=True, slots=True)
class Signed:
    """``payload`` is the canonical encoding of a message; ``signature`` covers it under its domain tag."""

    payload: Annotated[bytes, Size(1, MAX_MESSAGE - 128)]
    signature: Signature


def digest_of(value: Any) -> bytes:
    """The 32 bytes that a signature over ``value`` covers; also its name where one message points at another."""
    return _digest(type(value), encode(value))


def sign(value: Any, signer: Signer) -> Signed:
    """``value`` in an envelope signed by ``signer``."""
    payload = encode(value)
    return Signed(payload, signer.sign(_digest(type(value), payload)))


def open_signed(signed: Signed, cls: type[T]) -> tuple[T, PeerId]:
    """The message inside and who signed it. Raises MalformedMessage, UnknownMessage, BadSignature."""
    value = decode_as(cls, signed.payload)
    return value, author_of(signed, cls)


def author_of(signed: Signed, cls: type) -> PeerId:
    """Who signed the payload, which was found to be a ``cls``. Raises BadSignature."""
    return recover(_digest(cls, signed.payload), signed.signature)


def open_from(signed: Signed, cls: type[T], author: PeerId) -> T:
    """The message inside, which must be signed by ``author``. Raises like ``open_signed``."""
    value, signed_by = open_signed(signed, cls)
    if signed_by != author:
        raise BadSignature(f"{cls.__name__} signed by somebody else")
    return value


def read_signed(data: bytes, cls: type[T], limit: int = MAX_MESSAGE) -> tuple[T, PeerId]:
    """``open_signed`` on the bytes of an envelope."""
    return open_signed(decode_as(Signed, data, limit), cls)


def _digest(cls: type, payload: bytes) -> bytes:
    return keccak256(_domain(cls) + payload)


def _domain(cls: type) -> bytes:
    kind, version = wire_name(cls)
    return f"pasar/{kind}/{version}\0".encode()
