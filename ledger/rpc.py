"""A client of Ethereum's JSON-RPC: web3 in threads of its own, answers bounded, faults typed.

A request is sent once; whether to repeat it is for the caller to know, who alone can tell a question from a
transaction. web3 itself is in ``ledger/rpc_transport.py``, loaded with the first request. It knows no contract.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import trio

from p2p.errors import Misconfigured, Refused, Unavailable

if TYPE_CHECKING:
    from ledger.rpc_transport import Transport

THREADS = 8
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

Request = tuple[str, Sequence[Any]]


class RpcRefused(Refused):
    """The node's own error. ``text`` is its message, ``data`` what a contract gave when it reverted."""

    def __init__(self, number: int, text: str, data: str = "") -> None:
        super().__init__("RPC", f"{number} {text[:300]}")
        self.number, self.text, self.data = number, text, data


class Rpc(Protocol):
    """A node. ``batch`` raises Unavailable when there is none; an answer to one request may be an RpcRefused."""

    async def batch(self, calls: Sequence[Request]) -> list[Any]: ...


async def ask(rpc: Rpc, method: str, *params: Any) -> Any:
    """The result of one request. Raises Unavailable, RpcRefused."""
    (answer,) = await rpc.batch([(method, params)])
    if isinstance(answer, RpcRefused):
        raise answer
    return answer


class HttpRpc:
    """A node behind an URL. Raises Misconfigured when that is none of http or https."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured(f"{url!r} is no RPC URL: write http://127.0.0.1:8545 or https://...")
        self._url, self._timeout = url, timeout
        self._limiter = trio.CapacityLimiter(THREADS)
        self._proxies = parts.hostname not in _LOOPBACK  # no proxy stands before this machine
        self._opening = threading.Lock()
        self._transport: Transport | None = None

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")  # a path may hold a secret

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def batch(self, calls: Sequence[Request]) -> list[Any]:
        """Answers in the order of the calls. A thread that hangs is left behind, and ends with its own timeout."""
        with trio.move_on_after(self._timeout * 2) as limit:
            return await trio.to_thread.run_sync(  # type: ignore[call-arg, unused-ignore]  # old stubs
                self._batch, list(calls), limiter=self._limiter, abandon_on_cancel=True
            )
        assert limit.cancelled_caught
        raise Unavailable(f"{self} did not answer in {self._timeout * 2:.0f} s")

    def _batch(self, calls: list[Request]) -> list[Any]:
        try:
            reply = self._open().send(calls)
        except Unavailable as exc:
            raise Unavailable(f"{self} {exc}") from exc
        entries = reply if isinstance(reply, list) else [reply]
        found = {e["id"]: e for e in entries if _is_answer(e) and isinstance(e.get("id"), int)}
        if len(entries) == 1 and 0 not in found and _is_answer(entries[0]) and "error" in entries[0]:
            found = dict.fromkeys(range(len(calls)), entries[0])  # one error for the whole request
        if any(n not in found for n in range(len(calls))):
            raise Unavailable(f"{self} left requests unanswered")
        return [_result(found[n]) for n in range(len(calls))]

    def _open(self) -> Transport:
        with self._opening:
            if self._transport is None:
                from ledger.rpc_transport import Transport  # most of a second: here, no loop waits for it

                self._transport = Transport(self._url, self._timeout, proxies=self._proxies)
            return self._transport


def _is_answer(entry: Any) -> bool:
    return isinstance(entry, dict) and ("result" in entry or "error" in entry)


def _result(entry: dict[str, Any]) -> Any:
    error = entry.get("error")
    if error is None:
        return entry.get("result")
    if not isinstance(error, dict):
        return RpcRefused(0, str(error)[:300])
    number, data = error.get("code"), error.get("data")
    return RpcRefused(
        number if isinstance(number, int) else 0,
        str(error.get("message", ""))[:1000],
        data if isinstance(data, str) else "",
    )
