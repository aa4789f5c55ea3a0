"""Sealing: an artifact under a fresh key, so that it can travel before it is paid for. Pure; the key is an argument.

ChaCha20-Poly1305 over segments of 1 MiB in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, 2015): the
nonce counts segments and marks the last one, so none can be dropped, repeated or moved. The associated data names job,
attempt and the file's place, so that a seal made for one job opens in no other. Knows no money and no stream.
"""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from market.jobwire import BlobRef, Commitment, SealedArtifact
from p2p.errors import PeerFault

SEGMENT = 2**20
TAG = 16
KEY = 32
WORDS = b"pasar/seal/1\0"


class WrongKey(PeerFault):
    """The key does not open what was committed, or what is inside is not what was committed."""

    code = "WRONG_KEY"


def context(job_id: bytes, attempt: int, index: int) -> bytes:
    """What a sealed file is bound to: its job, the attempt, its place in the result."""
    return WORDS + job_id + attempt.to_bytes(4, "big") + index.to_bytes(4, "big")


def ref_of(data: bytes) -> BlobRef:
    """SHA-256 and length of bytes that travel."""
    return BlobRef(sha256(data).digest(), len(data))


def seal(key: bytes, plain: bytes, bound_to: bytes) -> bytes:
    """``plain`` under ``key`` (32 bytes, used for one result only)."""
    box = ChaCha20Poly1305(key)
    parts = max(1, -(-len(plain) // SEGMENT))
    return b"".join(
        box.encrypt(_nonce(part, part == parts - 1), plain[part * SEGMENT : (part + 1) * SEGMENT], bound_to)
        for part in range(parts)
    )


def unseal(key: bytes, cipher: bytes, bound_to: bytes) -> bytes:
    """The plain bytes. Raises WrongKey for any other key, other bytes or another place."""
    box = ChaCha20Poly1305(key)
    step = SEGMENT + TAG
    parts = max(1, -(-len(cipher) // step))
    try:
        return b"".join(
            box.decrypt(_nonce(part, part == parts - 1), cipher[part * step : (part + 1) * step], bound_to)
            for part in range(parts)
        )
    except InvalidTag as exc:
        raise WrongKey("the key does not open the sealed file") from exc


def sealed_artifact(media_type: str, plain: bytes, cipher: bytes) -> SealedArtifact:
    """What a Commitment says of one file."""
    return SealedArtifact(media_type, ref_of(plain), ref_of(cipher))


def open_all(key: bytes, commitment: Commitment, ciphers: list[bytes]) -> list[bytes]:
    """Every file of a result, each exactly what was committed. Raises WrongKey."""
    if len(ciphers) != len(commitment.artifacts):
        raise WrongKey("files are missing")
    opened = []
    for index, (named, cipher) in enumerate(zip(commitment.artifacts, ciphers, strict=True)):
        plain = unseal(key, cipher, context(commitment.job_id, commitment.attempt, index))
        if ref_of(plain) != named.plain:
            raise WrongKey("the file inside is not the one that was committed")
        opened.append(plain)
    return opened


def _nonce(part: int, last: bool) -> bytes:
    return part.to_bytes(11, "big") + bytes([last])
