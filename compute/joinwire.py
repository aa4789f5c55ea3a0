"""What a worker of another host and an orchestrator say to each other before the worker's own messages begin.

    orchestrator  nonce (32)                                   -->
    <--           nonce (32), proof (32)                           worker
    orchestrator  1, proof (32); or 0: a wrong key             -->
    <--           WorkerJoin, framed                               worker
    orchestrator  WorkerWelcome or WorkerDeclined, framed      -->

All of it inside TLS. Nothing of a stranger is parsed: up to the proofs everything has a fixed length. Each side proves
that it has the key over both nonces and the certificate, so a proof is worth nothing anywhere else or a second time.
Pure; knows no socket.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from compute.capability import MAX_MODELS
from compute.messages import Channel
from p2p.codec import Hash, Size, message

NONCE = PROOF = KEY = PIN = 32
GOOD, WRONG_KEY = b"\x01", b"\x00"
JOIN_LIMIT = 8 * 1024  # bytes of a framed message of this page
MAX_NAME = 32
INSTANCE = 16
_TAG = b"pasar worker 1 "

Models = Annotated[tuple[Hash, ...], Size(0, MAX_MODELS)]


class Side(StrEnum):
    """Who proves. A proof of one side is none of the other's."""

    ORCHESTRATOR = "orchestrator"
    WORKER = "worker"


def proof(key: bytes, side: Side, pin: bytes, asked: bytes, own: bytes) -> bytes:
    """That ``side`` has the key: over the other side's nonce ``asked``, its own, and the certificate's hash."""
    return hmac.new(key, _TAG + side.value.encode() + b"\0" + pin + asked + own, hashlib.sha256).digest()


def proves(claim: bytes, key: bytes, side: Side, pin: bytes, asked: bytes, own: bytes) -> bool:
    """Whether ``claim`` is that proof, in a time that tells nothing."""
    return hmac.compare_digest(claim, proof(key, side, pin, asked, own))


@message("worker-join", 1)
@dataclass(frozen=True, slots=True)
class WorkerJoin:
    """A worker of another host comes, or comes back; ``instance`` is its own for ever.

    ``models`` is what it could serve, ``checks`` whether it has a checker look at results.
    """

    name: Annotated[str, Size(1, MAX_NAME)]
    instance: Annotated[bytes, Size(INSTANCE, INSTANCE)]
    channel: Channel
    models: Models
    checks: bool = False


@message("worker-welcome", 1)
@dataclass(frozen=True, slots=True)
class WorkerWelcome:
    """Serve exactly these. What follows on this connection is as over a Unix socket, the orchestrator first."""

    models: Models


@message("worker-declined", 1)
@dataclass(frozen=True, slots=True)
class WorkerDeclined:
    """Not now, or not like this."""

    code: Annotated[str, Size(1, 48)]
    hint: Annotated[str, Size(0, 256)]
