"""The face as an ASGI application: is the node alive, is it ready, what does it see.

It answers loopback names only, so that a web page whose name was rebound to 127.0.0.1 learns nothing, and one request
in MAX_AT_ONCE at a time. Knows no socket, and of the node only the Status that it is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_AT_ONCE = 64
MAX_PATH = 2048  # with its query
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, slots=True)
class Status:
    """A node as its operator sees it. ``offers`` are those in its book, ``connected`` its peers."""

    role: str
    network: str
    ready: bool = False
    peer_id: str | None = None
    connected: int = 0
    offers: int = 0


def build_app(look: Callable[[], Status]) -> ASGIApp:
    """The application; ``look`` says how things stand now."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")  # whoever answers runs its loop

    async def readyz(_: Request) -> Response:
        ready = look().ready
        return PlainTextResponse("ready\n" if ready else "starting\n", status_code=200 if ready else 503)

    async def status(_: Request) -> Response:
        return JSONResponse(asdict(look()))

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/v1/status", status)]
    return Guard(Starlette(routes=routes))


class Guard:
    """Refuses what is not for this machine before anything else reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # lifespan, and the socket that no route serves
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._at_once += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._at_once -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or host_name(hosts[0]) not in LOOPBACK_NAMES:
            return _error(403, "HOST", "this face answers 127.0.0.1 and localhost only")
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_PATH:
            return _error(414, "TOO_LONG", f"a path has at most {MAX_PATH} bytes")
        if self._at_once >= MAX_AT_ONCE:
            return _error(503, "BUSY", f"{MAX_AT_ONCE} requests are under way")
        return None


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _error(status: int, code: str, text: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": text}}, status_code=status)
