"""First questions to a node, and what its answers are worth: a wrong shape is a typed refusal.

Knows the broker's views by name; keeps nothing.
"""

from __future__ import annotations

from typing import Any

from ledger.broker import BrokerTerms
from ledger.contract import call_data, result_of
from ledger.money import Settlement
from ledger.rpc import Rpc, RpcRefused, ask
from p2p.errors import MalformedMessage, Misconfigured, Unavailable
from p2p.peer import Address, address_text, parse_address


async def find_settlement(rpc: Rpc, broker: Address | None) -> Settlement:
    """The broker by its address, or the one that a development chain names. Raises Misconfigured, Unavailable."""
    chain_id = number_of(await ask(rpc, "eth_chainId"))
    if broker is not None:
        return Settlement(chain_id, broker)
    try:
        named = await ask(rpc, "pasar_settlement")
        return Settlement(chain_id, parse_address(named["broker"]))
    except (RpcRefused, MalformedMessage, KeyError, TypeError) as exc:
        raise Misconfigured(f"chain {chain_id} names no broker: give its address with --broker") from exc


async def read_terms(rpc: Rpc, broker: Address) -> BrokerTerms:
    """What the broker was deployed with. Raises Misconfigured when there is none."""
    names = ("roundLength", "ticketValidityPeriod", "unlockPeriod")
    to = address_text(broker)
    calls = [("eth_call", [{"to": to, "data": "0x" + call_data(name).hex()}, "latest"]) for name in names]
    answers = await rpc.batch(calls)
    try:
        values = [value_of(name, answer) for name, answer in zip(names, answers, strict=True)]
    except Unavailable as exc:
        raise Misconfigured(f"there is no broker at {to}: check --broker and --rpc") from exc
    return BrokerTerms(*values)


def value_of(function: str, answer: Any) -> Any:
    """What a view returned, from a node's answer. Raises Unavailable."""
    if not isinstance(answer, str):
        raise Unavailable(f"{function} failed: {answer}")
    try:
        return result_of(function, bytes.fromhex(answer.removeprefix("0x")))
    except ValueError as exc:
        raise Unavailable(f"{function} gave no hex") from exc


def number_of(answer: Any) -> int:
    """A quantity, from a node's answer. Raises Unavailable."""
    try:
        return int(answer, 16)
    except (TypeError, ValueError) as exc:
        raise Unavailable(f"no number: {str(answer)[:80]}") from exc
