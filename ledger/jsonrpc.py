"""JSON-RPC 2.0 in front of a development chain: bytes in, bytes out, every fault a typed error.

Synchronous; whoever serves it calls it from one thread at a time. It knows no socket. Only the latest state is kept, so
that calls and balances of older blocks are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ledger.evm import Evm
from ledger.evm_shapes import LogFilter, Reverted, hexed
from ledger.money import Settlement
from ledger.transactions import Call
from p2p.errors import MalformedMessage, Refused
from p2p.peer import Address, address_text, parse_address

MAX_BODY = 1024 * 1024
MAX_BATCH = 100
MAX_BRACKETS = 4096  # py-evm raises the recursion limit so far that a deep text would overrun the stack
MAX_FUND = 1000 * 10**18
MAX_HISTORY = 1024
PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, SERVER, REVERTED = -32700, -32600, -32601, -32602, -32000, 3

Params = list[Any]


class RpcFault(Refused):
    """What becomes an error object. ``code`` of Refused is for people; ``number`` is JSON-RPC's."""

    def __init__(self, number: int, text: str, data: str | None = None) -> None:
        super().__init__("RPC", text)
        self.number, self.text, self.data = number, text, data


class DevelopmentRpc:
    """The methods of a node that Pasar and wallets use, over one chain. It answers everything, and never raises."""

    def __init__(self, evm: Evm, settlement: Settlement, clock: Callable[[], int]) -> None:
        self._evm, self._settlement, self._clock = evm, settlement, clock
        self._methods: dict[str, Callable[[Params], Any]] = {
            "web3_clientVersion": lambda _: "pasar-devchain/1",
            "net_version": lambda _: str(evm.chain_id),
            "eth_chainId": lambda _: evm.chain_id,
            "eth_blockNumber": lambda _: evm.number,
            "eth_gasPrice": lambda _: evm.base_fee(),
            "eth_maxPriorityFeePerGas": lambda _: 0,
            "eth_syncing": lambda _: False,
            "eth_accounts": lambda _: [],
            "eth_getBalance": lambda p: evm.balance_of(self._account(p)),
            "eth_getCode": lambda p: evm.code_of(self._account(p)),
            "eth_getTransactionCount": self._transaction_count,
            "eth_getBlockByNumber": lambda p: evm.header(self._block(p, 0)),
            "eth_getBlockByHash": lambda p: evm.header(evm.number_of(_data(p, 0, 32)) or -1),
            "eth_getTransactionReceipt": lambda p: evm.receipt(_data(p, 0, 32)),
            "eth_call": self._call,
            "eth_estimateGas": self._estimate,
            "eth_feeHistory": self._fee_history,
            "eth_getLogs": self._logs,
            "eth_sendRawTransaction": lambda p: evm.send_raw(_data(p, 0)),
            "pasar_settlement": lambda _: {
                "chain_id": settlement.chain_id,
                "broker": address_text(settlement.broker),
            },
            "pasar_fund": self._fund,
        }

    def answer(self, body: bytes) -> bytes:
        """The response to one request or a batch, as JSON; empty when nothing is to be answered."""
        try:
            if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
                raise ValueError("too deep")
            request = json.loads(body)
        except (ValueError, RecursionError):
            return _json(_error(None, RpcFault(PARSE_ERROR, "no JSON")))
        if not isinstance(request, list):
            return _json(self._one(request))
        if not 0 < len(request) <= MAX_BATCH:
            return _json(_error(None, RpcFault(INVALID_REQUEST, f"a batch has 1 to {MAX_BATCH} requests")))
        answers = [self._one(item) for item in request]
        return _json([answer for answer in answers if answer is not None] or None)

    def call(self, method: str, params: Params) -> Any:
        """The result of one method. Raises RpcFault."""
        known = self._methods.get(method)
        if known is None:
            raise RpcFault(NO_METHOD, f"the method {method[:64]} does not exist here")
        try:
            return _dressed(known(params))
        except RpcFault:
            raise
        except Reverted as exc:
            text = f"execution reverted: {exc.hint}" if exc.hint else "execution reverted"
            raise RpcFault(REVERTED, text, hexed(exc.data)) from exc
        except Refused as exc:
            raise RpcFault(SERVER, exc.hint or exc.code.lower()) from exc

    def _one(self, request: Any) -> dict[str, Any] | None:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _error(None, RpcFault(INVALID_REQUEST, "a request is an object with a method"))
        name = request.get("id")
        if not isinstance(name, str | int | float | None):
            return _error(None, RpcFault(INVALID_REQUEST, "an id is a string or a number"))
        params = request.get("params", [])
        try:
            if not isinstance(params, list):
                raise RpcFault(INVALID_PARAMS, "params are an array")
            result = self.call(request["method"], params)
        except RpcFault as fault:
            return _error(name, fault)
        return {"jsonrpc": "2.0", "id": name, "result": result} if "id" in request else None

    # --- methods

    def _transaction_count(self, params: Params) -> int:
        account = _address(_at(params, 0))
        return self._evm.nonce_of(account, pending=len(params) > 1 and params[1] == "pending")

    def _call(self, params: Params) -> bytes:
        sender, call = _call(params)
        self._latest(params)
        return self._evm.call(sender, call, self._clock())

    def _estimate(self, params: Params) -> int:
        return self._evm.estimate(*_call(params), self._clock())

    def _fund(self, params: Params) -> bytes:
        wei = _quantity(_at(params, 1))
        if not 0 < wei <= MAX_FUND:
            raise RpcFault(INVALID_PARAMS, f"the faucet gives 1 to {MAX_FUND} wei at a time")
        return self._evm.fund(_address(_at(params, 0)), wei)

    def _fee_history(self, params: Params) -> dict[str, Any]:
        newest = min(self._block(params, 1), self._evm.number)
        count = max(1, min(_quantity(_at(params, 0)), MAX_HISTORY, newest + 1))
        headers = [self._evm.header(n) or {} for n in range(newest - count + 1, newest + 1)]
        percentiles = params[2] if len(params) > 2 and isinstance(params[2], list) else []
        ratios = [int(h["gasUsed"], 16) / int(h["gasLimit"], 16) for h in headers]
        return {
            "oldestBlock": hexed(newest - count + 1),
            "baseFeePerGas": [h["baseFeePerGas"] for h in headers] + [hexed(self._evm.base_fee())],
            "gasUsedRatio": ratios,
            "reward": [["0x0"] * min(len(percentiles), 100) for _ in headers],
        }

    def _logs(self, params: Params) -> list[dict[str, Any]]:
        wanted = _at(params, 0)
        if not isinstance(wanted, dict):
            raise RpcFault(INVALID_PARAMS, "a filter is an object")
        if "blockHash" in wanted:
            first = last = self._evm.number_of(_bytes(wanted["blockHash"], 32)) or -1
        else:
            first = self._tag(wanted.get("fromBlock", "latest"))
            last = self._tag(wanted.get("toBlock", "latest"))
        addresses = frozenset(_bytes(a, 20) for a in _listed(wanted.get("address")))
        topics = tuple(frozenset(_bytes(t, 32) for t in _listed(at)) for at in _listed(wanted.get("topics")))
        return self._evm.logs(LogFilter(first, last, addresses, topics[:4]))

    # --- parameters that need the chain

    def _account(self, params: Params) -> Address:
        self._latest(params)
        return _address(_at(params, 0))

    def _latest(self, params: Params) -> None:
        if len(params) > 1 and self._tag(params[1]) < self._evm.number:
            raise RpcFault(SERVER, "only the latest state is kept")

    def _block(self, params: Params, place: int) -> int:
        return self._tag(_at(params, place))

    def _tag(self, tag: Any) -> int:
        if tag in ("latest", "pending", "safe", "finalized"):
            return self._evm.number
        return 0 if tag == "earliest" else _quantity(tag)


def _at(params: Params, place: int) -> Any:
    if place >= len(params):
        raise RpcFault(INVALID_PARAMS, f"parameter {place + 1} is missing")
    return params[place]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    listed = value if isinstance(value, list) else [value]
    if len(listed) > MAX_HISTORY:
        raise RpcFault(INVALID_PARAMS, "the list is too long")
    return listed


def _quantity(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,64}", value):
        return int(value, 16)
    raise RpcFault(INVALID_PARAMS, "a quantity is 0x and hex digits")


def _bytes(value: Any, size: int | None = None) -> bytes:
    if isinstance(value, str) and re.fullmatch(r"0x([0-9a-fA-F]{2})*", value):
        data = bytes.fromhex(value[2:])
        if size is None or len(data) == size:
            return data
    raise RpcFault(INVALID_PARAMS, f"{size or 'some'} bytes in hex belong here")


def _data(params: Params, place: int, size: int | None = None) -> bytes:
    return _bytes(_at(params, place), size)


def _address(value: Any) -> Address:
    try:
        return parse_address(value if isinstance(value, str) else "")
    except MalformedMessage as exc:
        raise RpcFault(INVALID_PARAMS, str(exc)) from exc


def _call(params: Params) -> tuple[Address, Call]:
    raw = _at(params, 0)
    if not isinstance(raw, dict):
        raise RpcFault(INVALID_PARAMS, "a call is an object")
    sender = _address(raw["from"]) if raw.get("from") else Address(bytes(20))
    data = raw.get("data") or raw.get("input") or "0x"
    to = _address(raw["to"]) if raw.get("to") else None
    return sender, Call(to, _bytes(data), _quantity(raw.get("value", "0x0")), _quantity(raw.get("gas", "0x0")))


def _dressed(result: Any) -> Any:
    if isinstance(result, bool) or result is None or isinstance(result, str | list):
        return result
    return result if isinstance(result, dict) else hexed(result)


def _error(name: Any, fault: RpcFault) -> dict[str, Any]:
    error: dict[str, Any] = {"code": fault.number, "message": fault.text}
    if fault.data is not None:
        error["data"] = fault.data
    return {"jsonrpc": "2.0", "id": name, "error": error}


def _json(value: Any) -> bytes:
    return b"" if value is None else json.dumps(value).encode()
