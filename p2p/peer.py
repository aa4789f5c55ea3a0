"""Names of peers: one secp256k1 public key is the libp2p peer id and the Ethereum address.

    public key (33 bytes, compressed) -> PeerId  (identity multihash of its protobuf, text 16Uiu2HA...)
                                      -> Address (last 20 bytes of keccak256 of the uncompressed point)

The peer id contains the key, so what a peer signed can be checked with nothing but its id. Pure; knows no network.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, NewType

import base58
import coincurve
import sha3

from p2p.codec import Size
from p2p.errors import BadSignature, MalformedMessage

PeerId = NewType("PeerId", bytes)
Address = NewType("Address", bytes)
WirePeer = Annotated[PeerId, Size(39, 39)]
WireAddress = Annotated[Address, Size(20, 20)]

# identity multihash (0x00) of 37 bytes, protobuf: key type 2 (secp256k1), 33 bytes of key (libp2p peer-ids spec)
_PREFIX = bytes([0x00, 37, 0x08, 0x02, 0x12, 33])
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (not SHA3-256)."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


def peer_of(public_key: bytes) -> PeerId:
    """The peer id of a compressed public key of 33 bytes."""
    if len(public_key) != 33:
        raise ValueError("a compressed public key has 33 bytes")
    return PeerId(_PREFIX + public_key)


def public_key_of(peer: PeerId) -> bytes:
    """The compressed public key inside a peer id. Raises MalformedMessage for an id of another key type."""
    if len(peer) != 39 or not peer.startswith(_PREFIX):
        raise MalformedMessage("not the id of a secp256k1 peer")
    return peer[len(_PREFIX) :]


@lru_cache(maxsize=4096)
def address_of(peer: PeerId) -> Address:
    """The Ethereum address of a peer. Raises MalformedMessage when the id holds no point of the curve."""
    try:
        point = coincurve.PublicKey(public_key_of(peer))
    except ValueError as exc:
        raise MalformedMessage("the peer id holds no public key") from exc
    return Address(keccak256(point.format(compressed=False)[1:])[12:])


@lru_cache(maxsize=4096)
def peer_text(peer: PeerId) -> str:
    """``16Uiu2HA...``, as multiaddrs and logs show it."""
    text: str = base58.b58encode(peer).decode()
    return text


def parse_peer(text: str) -> PeerId:
    """The inverse of ``peer_text``. Raises MalformedMessage."""
    if len(text) > 64:
        raise MalformedMessage("a peer id is shorter")
    try:
        peer = PeerId(base58.b58decode(text))
    except ValueError as exc:
        raise MalformedMessage("a peer id is base58 text") from exc
    public_key_of(peer)
    return peer


def address_text(address: Address) -> str:
    """``0x`` and 40 hex digits, with the EIP-55 checksum."""
    plain = address.hex()
    check = keccak256(plain.encode()).hex()
    return "0x" + "".join(c.upper() if int(k, 16) >= 8 else c for c, k in zip(plain, check, strict=False))


def parse_address(text: str) -> Address:
    """An address in hex, checksummed or all in one case. Raises MalformedMessage."""
    body = text.removeprefix("0x")
    if len(body) != 40 or any(c not in "0123456789abcdefABCDEF" for c in body):
        raise MalformedMessage("an address is 0x and 40 hex digits")
    address = Address(bytes.fromhex(body))
    if body not in (body.lower(), body.upper()) and address_text(address)[2:] != body:
        raise MalformedMessage("the address has a wrong checksum")
    return address


def recover(digest: bytes, signature: bytes) -> PeerId:
    """Who signed ``digest`` (32 bytes) with ``signature`` (r || s || v, v 27 or 28, low s as the contract demands).

    Raises BadSignature.
    """
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise BadSignature("65 bytes with v of 27 or 28 belong here")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise BadSignature("high s")
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes([signature[64] - 27]), digest, hasher=None
        )
    except Exception as exc:  # coincurve raises plain Exception and ValueError on bytes that are no signature
        raise BadSignature("no signature") from exc
    return peer_of(key.format(compressed=True))
