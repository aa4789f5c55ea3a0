"""Notices to a service manager: READY=1, WATCHDOG=1, STOPPING=1 to the datagram socket that NOTIFY_SOCKET names.

The protocol is sd_notify(3): one datagram of lines, no answer. An address that begins with ``@`` is an abstract name
(Linux). Nobody waits for a manager: what it does not take is lost. Knows no node and no supervisor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass

READY, WATCHDOG, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"
SETTINGS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True, slots=True)
class ServiceNotice:
    """Where notices go, "" for nowhere; ``watchdog_s`` is how long the manager bears silence, 0 for ever."""

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> ServiceNotice:
        """What the environment says, for this process alone: it is taken out, so that no child speaks for us."""
        address, usec, pid = (environment.pop(name, "") for name in SETTINGS)
        if not address.startswith(("/", "@")):
            return cls()
        meant = not pid or pid == str(os.getpid())
        return cls(address, int(usec) / 1e6 if meant and usec.isascii() and usec.isdecimal() else 0.0)

    def send(self, *lines: str) -> None:
        """Say this, if anybody listens."""
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto("\n".join(lines).encode(), name)
