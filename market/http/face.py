"""The face's socket, bound before anything else of the node, and hypercorn on trio behind it.

Loopback only. Knows the application and no role: the role shows it how things stand.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import structlog
import trio
from hypercorn.config import Config as Hypercorn
from hypercorn.trio import serve

from market.config import LOOPBACK_HOSTS
from market.http.app import Status, build_app
from p2p.errors import Misconfigured

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

BACKLOG = 64
MAX_HEAD = 16 * 1024
IDLE_S = 15
AGAIN_S = 1.0


class Face:
    """One listening socket of this node, until ``close``. Before ``show`` the node counts as starting."""

    def __init__(self, place: str, role: str, network: str) -> None:
        """Binds HOST:PORT. Raises Misconfigured when it is taken, or is not on loopback."""
        host, _, port = place.rpartition(":")
        self._socket = _bind(host.strip("[]"), int(port))
        self._look: Callable[[], Status] = lambda: Status(role, network)

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def show(self, look: Callable[[], Status]) -> None:
        """From now on ``look`` says how things stand."""
        self._look = look

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: requests are answered."""
        app = cast(Any, build_app(lambda: self._look()))
        started = False
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(partial(serve, app, self._settings(), mode="asgi"))
                    if not started:
                        task_status.started()
                        started = True
            except Exception as exc:  # whatever one connection made the server raise, it must not end the node
                if not started:
                    raise
                log.error("the HTTP face fell and stands up again", reason=repr(exc)[:300])
                await trio.sleep(AGAIN_S)

    def close(self) -> None:
        self._socket.close()

    def _settings(self) -> Hypercorn:
        """The server takes a copy of the socket, which it closes when it ends."""
        settings = Hypercorn()
        settings.bind = [f"fd://{self._socket.dup().detach()}"]
        settings.backlog = BACKLOG
        settings.h11_max_incomplete_size = settings.h2_max_header_list_size = MAX_HEAD
        settings.keep_alive_timeout = settings.read_timeout = IDLE_S
        settings.include_server_header = False
        settings.accesslog = None
        settings.errorlog = logging.getLogger("hypercorn")  # through the node's own logging
        return settings


def _bind(host: str, port: int) -> socket.socket:
    if host not in LOOPBACK_HOSTS:
        raise Misconfigured(f"http: {host} is not on loopback")
    address = "127.0.0.1" if host == "localhost" else host
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(BACKLOG)  # now, so that of two nodes with one port the second is told
    except OSError as exc:
        listening.close()
        raise Misconfigured(f"http: port {port} on {host} cannot be used: {exc.strerror or exc}") from exc
    return listening
