"""The last knowledge of a chain, on disk: a node starts with it while its chain cannot be reached.

It is a cache: a file that cannot be read is as good as none. Written whole, beside, and moved into place.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ledger.broker import BrokerTerms
from ledger.cover import Cover
from ledger.money import Settlement
from p2p.errors import MalformedMessage
from p2p.peer import Address, address_text, parse_address

MAX_FILE = 8 * 1024 * 1024
_VERSION = 1


@dataclass(slots=True)
class Checkpoint:
    """One settlement as of ``block``. The anchor round is the newest that has a hash."""

    settlement: Settlement
    terms: BrokerTerms
    block: int = 0
    current_round: int = 0
    anchor_round: int = 0
    round_hash: bytes = b""
    covers: dict[Address, Cover] = field(default_factory=dict)


def read_checkpoint(file: Path) -> Checkpoint | None:
    """What was written there; None for no file, and for one that is broken."""
    try:
        if file.stat().st_size > MAX_FILE:
            return None
        data = json.loads(file.read_text())
        if data["version"] != _VERSION:
            return None
        return Checkpoint(
            Settlement(int(data["chain_id"]), parse_address(data["broker"])),
            BrokerTerms(*(int(n) for n in data["terms"])),
            int(data["block"]),
            int(data["current_round"]),
            int(data["anchor_round"]),
            bytes.fromhex(data["round_hash"]),
            {parse_address(a): Cover(*(int(n) for n in c)) for a, c in data["covers"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MalformedMessage):
        return None


def write_checkpoint(file: Path, known: Checkpoint) -> None:
    """Replace what is there. After a loss of power it is the old one or the new one, whole."""
    covers = {address_text(a): [c.deposit, c.reserve, c.withdraw_round, c.known_at_ms] for a, c in known.covers.items()}
    data = {
        "version": _VERSION,
        "chain_id": known.settlement.chain_id,
        "broker": address_text(known.settlement.broker),
        "terms": [known.terms.round_length, known.terms.validity, known.terms.unlock_period],
        "block": known.block,
        "current_round": known.current_round,
        "anchor_round": known.anchor_round,
        "round_hash": known.round_hash.hex(),
        "covers": covers,
    }
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".new")
    beside.unlink(missing_ok=True)  # one that a kill left keeps the mode it was made with
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(json.dumps(data))
        output.flush()
        os.fsync(output.fileno())
    beside.replace(file)
