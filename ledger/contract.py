"""The broker contract as data: ABI and bytecode shipped with the package, calls and events in and out of bytes.

It knows no chain; a call here is only its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from ledger.broker import BrokerTerms
from ledger.ticket import Winner
from p2p.errors import Unavailable
from p2p.peer import keccak256


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the broker. ``fields`` are its arguments by name, addresses as bytes."""

    name: str
    fields: dict[str, Any]
    transaction: bytes
    block: int
    index: int


@cache
def _artifact() -> dict[str, Any]:
    text = resources.files("ledger").joinpath("contracts/broker.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def _entry(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in _artifact()["abi"] if e["type"] == kind and e.get("name") == name)
    return found


def _type(parameter: dict[str, Any]) -> str:
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    return "(" + ",".join(_type(c) for c in parameter["components"]) + ")" + kind.removeprefix("tuple")


def _types(parameters: list[dict[str, Any]]) -> list[str]:
    return [_type(p) for p in parameters]


def _signature(entry: dict[str, Any]) -> bytes:
    return keccak256(f"{entry['name']}({','.join(_types(entry['inputs']))})".encode())


def creation(terms: BrokerTerms) -> bytes:
    """The data of the transaction that deploys a broker."""
    code = bytes.fromhex(_artifact()["bytecode"].removeprefix("0x"))
    arguments = [terms.round_length, terms.validity, terms.unlock_period]
    return code + encode(["uint256"] * 3, arguments)


def call_data(function: str, *arguments: Any) -> bytes:
    """Selector and arguments of a call."""
    entry = _entry("function", function)
    return _signature(entry)[:4] + encode(_types(entry["inputs"]), list(arguments))


def result_of(function: str, data: bytes) -> Any:
    """What a call returned: a value, or a tuple of them. Raises Unavailable when no broker answers at that address."""
    outputs = _types(_entry("function", function)["outputs"])
    try:
        values = decode(outputs, data)
    except (DecodingError, OverflowError) as exc:
        raise Unavailable(f"no broker there: {function} gave {len(data)} bytes") from exc
    return _plain(values[0] if len(outputs) == 1 else values)


def redeem_data(winner: Winner) -> bytes:
    """The call that redeems one ticket."""
    return call_data("redeemWinningTicket", *_redemption(winner))


def batch_data(winners: Sequence[Winner]) -> bytes:
    """The call that redeems many; those that fail are passed over."""
    tuples = [_redemption(winner) for winner in winners]
    return call_data("batchRedeemWinningTickets", *(list(column) for column in zip(*tuples, strict=True)))


def _redemption(winner: Winner) -> tuple[Any, bytes, int]:
    t = winner.ticket
    fields = (t.recipient, t.sender, t.face_value, t.win_prob, t.nonce, t.rand_hash, t.aux_data)
    return fields, winner.signature, int.from_bytes(winner.rand, "big")


def topic_of(event: str) -> bytes:
    """The first topic of an event of this name."""
    return _signature(_entry("event", event))


@cache
def _events() -> dict[bytes, dict[str, Any]]:
    return {_signature(e): e for e in _artifact()["abi"] if e["type"] == "event"}


def event_of(log: dict[str, Any]) -> Event | None:
    """The event in a log as an RPC gives it; None for what is no event of a broker, or broken."""
    try:
        topics = [bytes.fromhex(t[2:]) for t in log["topics"]]
        entry = _events().get(topics[0])
        if entry is None:
            return None
        indexed = [p for p in entry["inputs"] if p["indexed"]]
        rest = [p for p in entry["inputs"] if not p["indexed"]]
        values = decode(_types(rest), bytes.fromhex(log["data"][2:]))
        fields = {p["name"]: _plain(v) for p, v in zip(rest, values, strict=True)}
        for parameter, topic in zip(indexed, topics[1:], strict=True):
            fields[parameter["name"]] = _plain(decode([_type(parameter)], topic)[0])
        place = int(log["blockNumber"], 16), int(log["logIndex"], 16)
        return Event(entry["name"], fields, bytes.fromhex(log["transactionHash"][2:]), *place)
    except (DecodingError, OverflowError, KeyError, TypeError, ValueError, IndexError):
        return None


def _plain(value: Any) -> Any:
    """eth_abi gives addresses as hex text; here they are bytes."""
    if isinstance(value, str) and len(value) == 42 and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    return tuple(_plain(v) for v in value) if isinstance(value, tuple | list) else value
