"""A client of Ethereum's JSON-RPC: requests in threads of their own, answers bounded, faults typed.

A request is sent once; whether to repeat it is for the caller to know, who alone can tell a question from a
transaction. It knows no contract.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import trio

from p2p.errors import Misconfigured, Refused, Unavailable

MAX_REPLY = 16 * 1024 * 1024
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
        self._session = requests.Session()
        self._session.trust_env = parts.hostname not in _LOOPBACK  # no proxy stands before this machine

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")  # a path may hold a secret

    def close(self) -> None:
        self._session.close()

    async def batch(self, calls: Sequence[Request]) -> list[Any]:
        """Answers in the order of the calls. A thread that hangs is left behind, and ends with its own timeout."""
        with trio.move_on_after(self._timeout * 2) as limit:
            return await trio.to_thread.run_sync(  # type: ignore[call-arg, unused-ignore]  # old stubs
                self._batch, list(calls), limiter=self._limiter, abandon_on_cancel=True
            )
        assert limit.cancelled_caught
        raise Unavailable(f"{self} did not answer in {self._timeout * 2:.0f} s")

    def _batch(self, calls: list[Request]) -> list[Any]:
        body = [{"jsonrpc": "2.0", "id": n, "method": m, "params": list(p)} for n, (m, p) in enumerate(calls)]
        reply = self._post(body[0] if len(body) == 1 else body)
        entries = reply if isinstance(reply, list) else [reply]
        found = {e["id"]: e for e in entries if _is_answer(e) and isinstance(e.get("id"), int)}
        if len(entries) == 1 and 0 not in found and _is_answer(entries[0]) and "error" in entries[0]:
            found = dict.fromkeys(range(len(calls)), entries[0])  # one error for the whole request
        if any(n not in found for n in range(len(calls))):
            raise Unavailable(f"{self} left requests unanswered")
        return [_result(found[n]) for n in range(len(calls))]

    def _post(self, body: Any) -> Any:
        try:
            with self._session.post(self._url, json=body, timeout=self._timeout, stream=True) as response:
                data = response.raw.read(MAX_REPLY + 1, decode_content=True)
                status = response.status_code
        except (requests.RequestException, OSError, ValueError) as exc:
            raise Unavailable(f"{self} cannot be reached: {type(exc).__name__}") from exc
        if len(data) > MAX_REPLY:
            raise Unavailable(f"{self} answered with more than {MAX_REPLY} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise Unavailable(f"{self} answered {status} and no JSON") from exc


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
