"""web3's HTTP provider, made safe to hang on: nothing is sent twice, redirected, or read without a bound.

Blocking; ``ledger/rpc.py`` calls it from threads and imports it there, since web3 takes most of a second to load.
It turns requests into decoded JSON and knows no meaning of either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from web3.providers.rpc import HTTPProvider

from p2p.errors import Unavailable
from p2p.limits import bound_recursion

bound_recursion()  # web3 brings py_ecc along, which lifts it

MAX_REPLY = 16 * 1024 * 1024
CONNECTIONS = 8
_PIECE = 64 * 1024


class _Body:
    """A reply's body that ends with an error past MAX_REPLY bytes, or when it is not whole in time."""

    def __init__(self, raw: Any, until: float) -> None:
        self._raw, self._until = raw, until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """Pieces as they arrive: one slow byte at a time never outlasts the deadline by more than one wait."""
        size = 0
        try:
            while piece := self._raw.read1(_PIECE, decode_content=decode_content):
                size += len(piece)
                if size > MAX_REPLY:
                    raise requests.exceptions.ContentDecodingError(f"more than {MAX_REPLY} bytes")
                if time.monotonic() > self._until:
                    raise requests.Timeout("the answer is not whole in time")
                yield piece
        except BaseException:
            self._raw.close()  # what is left of it must not be taken for the next answer
            raise


class _Bounded(HTTPAdapter):
    """Connections without retries, whose replies are bounded."""

    def __init__(self, patience: float) -> None:
        super().__init__(pool_maxsize=CONNECTIONS, max_retries=0)
        self._patience = patience

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        response = super().build_response(req, resp)
        response.raw = _Body(response.raw, time.monotonic() + self._patience)
        return response


class Transport:
    """One node's URL. May be called from several threads at once."""

    def __init__(self, url: str, timeout: float, *, proxies: bool) -> None:
        self._url, self._timeout = url, timeout
        self._session = requests.Session()
        self._session.trust_env = proxies
        self._session.max_redirects = 0
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Bounded(timeout))

    def close(self) -> None:
        self._session.close()

    def send(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> Any:
        """The reply to one request, or to a batch, as decoded JSON of any shape. Raises Unavailable."""
        try:
            return self._send(calls)
        except requests.HTTPError as exc:
            return self._told(exc.response)
        except (requests.RequestException, OSError) as exc:
            raise Unavailable(f"cannot be reached: {type(exc).__name__}") from exc
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, RuntimeWarning) as exc:
            raise Unavailable(f"answered no JSON-RPC: {type(exc).__name__}") from exc

    def _send(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> Any:
        # A provider of its own for each request: it counts ids from 0, so that an answer tells what it answers.
        provider = HTTPProvider(
            self._url,
            request_kwargs={"timeout": self._timeout},
            session=self._session,
            exception_retry_configuration=None,  # else it repeats what failed, transactions included
        )
        if len(calls) == 1:
            return provider.make_request(*calls[0])
        return provider.make_batch_request(list(calls))

    @staticmethod
    def _told(response: requests.Response) -> Any:
        """Some nodes put a JSON-RPC error under a status of 400 and above."""
        try:
            return response.json()
        except (ValueError, RecursionError) as exc:
            raise Unavailable(f"answered {response.status_code} and no JSON") from exc
