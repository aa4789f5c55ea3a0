"""The broker contract as data: ABI and bytecode shipped with the package, calls and events in and out of bytes.

web3's codec does the work. It is loaded when first needed, so that a light client never waits for it. It knows no
chain; a call here is only its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ledger.broker import BrokerTerms
from ledger.ticket import Winner
from p2p.errors import Unavailable
from p2p.limits import bound_recursion


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


@dataclass(frozen=True, slots=True)
class _Function:
    selector: bytes
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True, slots=True)
class _Broker:
    """The ABI as web3 reads it: functions by name, events by name and by first topic."""

    codec: Any
    functions: dict[str, _Function]
    topics: dict[str, bytes]
    events: dict[bytes, Any]
    broken: tuple[type[Exception], ...]  # what it raises for bytes that are not what they should be


@cache
def _broker() -> _Broker:
    from eth_abi.exceptions import DecodingError
    from web3 import Web3
    from web3.exceptions import Web3Exception
    from web3.utils import get_abi_input_types, get_abi_output_types
    from web3.utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector

    bound_recursion()  # py_ecc, which web3 imports, has lifted it
    offline = Web3()
    contract = offline.eth.contract(abi=_artifact()["abi"])
    functions = {
        f["name"]: _Function(function_abi_to_4byte_selector(f), get_abi_input_types(f), get_abi_output_types(f))
        for f in _artifact()["abi"]
        if f["type"] == "function"
    }
    topics = {e["name"]: event_abi_to_log_topic(e) for e in _artifact()["abi"] if e["type"] == "event"}
    events = {topic: contract.events[name] for name, topic in topics.items()}
    plain = (OverflowError, AttributeError, KeyError, TypeError, ValueError, IndexError)
    return _Broker(offline.codec, functions, topics, events, (Web3Exception, DecodingError, *plain))


def prepare() -> None:
    """Load web3 and read the ABI, most of a second: for a thread, before the loop needs either."""
    _broker()


def creation(terms: BrokerTerms) -> bytes:
    """The data of the transaction that deploys a broker; without web3, which a chain's own process has no use for."""
    from eth_abi.abi import encode

    code = bytes.fromhex(_artifact()["bytecode"].removeprefix("0x"))
    arguments = [terms.round_length, terms.validity, terms.unlock_period]
    return code + encode(["uint256"] * 3, arguments)


def call_data(function: str, *arguments: Any) -> bytes:
    """Selector and arguments of a call."""
    known = _broker().functions[function]
    encoded: bytes = _broker().codec.encode(known.inputs, arguments)
    return known.selector + encoded


def result_of(function: str, data: bytes) -> Any:
    """What a call returned: a value, or a tuple of them. Raises Unavailable when no broker answers at that address."""
    outputs = _broker().functions[function].outputs
    try:
        values = _broker().codec.decode(outputs, data)
    except _broker().broken as exc:
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
    return _broker().topics[event]


def event_of(log: dict[str, Any]) -> Event | None:
    """The event in a log as an RPC gives it; None for what is no event of a broker, or broken."""
    try:
        event = _broker().events.get(bytes.fromhex(log["topics"][0][2:]))
        if event is None:
            return None
        found = event.process_log(log)
        fields = {name: _plain(value) for name, value in found["args"].items()}
        place = int(log["blockNumber"], 16), int(log["logIndex"], 16)
        return Event(found["event"], fields, bytes.fromhex(log["transactionHash"][2:]), *place)
    except _broker().broken:
        return None


def _plain(value: Any) -> Any:
    """web3 gives addresses as hex text; here they are bytes."""
    if isinstance(value, str) and len(value) == 42 and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    return tuple(_plain(v) for v in value) if isinstance(value, tuple | list) else value
