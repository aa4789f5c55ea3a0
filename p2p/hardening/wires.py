"""Wires: sockets on which the kernel itself finds out that the far end is gone.

It covers what no protocol above sees in time: bytes under way to a peer whose wire was cut. Knows no peer.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from libp2p.io.trio import TrioTCPStream

from p2p.hardening.pinned import Ground, Patch

KEEPALIVE_IDLE, KEEPALIVE_EVERY, KEEPALIVE_COUNT = 15, 5, 3  # seconds, seconds, probes
UNACKNOWLEDGED_MS = 20_000  # bytes that the far end's kernel has not taken for so long end the connection
_stock_init = TrioTCPStream.__init__
# What a system does not have it names not at all, or refuses; macOS names the first one otherwise.
_OPTIONS = (
    ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
    ("TCP_KEEPALIVE", KEEPALIVE_IDLE),
    ("TCP_KEEPINTVL", KEEPALIVE_EVERY),
    ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
)


def _watch(stream: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        if hasattr(socket, name):
            with contextlib.suppress(OSError, AttributeError):
                stream.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _init_watched(self: Any, stream: Any) -> None:
    _stock_init(self, stream)
    _watch(stream)


def _watched_wires() -> None:
    TrioTCPStream.__init__ = _init_watched


PATCHES = (
    Patch(
        "watched-wires",
        "a connection whose wire was cut stays for as long as nobody writes, and for minutes when somebody does",
        (Ground(TrioTCPStream, "__init__", "4222fa993846189e"),),
        _watched_wires,
    ),
)
