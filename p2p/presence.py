"""Who is there: provider keys that change every day, put again while we are up, and asked for by kind.

A kind is a role, ``gateway`` or ``orchestrator``. Keys are H(kind, network, day), so that nobody can sit on one for
ever. Works over any Discovery; its calendar is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.errors import Unavailable
from p2p.transport import Discovery, PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

DAY = 86_400
OVERLAP = 3_600  # an hour before and after midnight UTC both days count
REPUBLISH_FIRST, REPUBLISH = 30.0, 600.0  # a record put while few were there lies with few
RETRY = 15.0

log = structlog.get_logger(__name__)


def provider_key(kind: str, network: str, day: int) -> bytes:
    """The DHT key of a kind in a network on a day (days since 1970 in UTC)."""
    fields = (b"pasar-provider-1", kind.encode(), network.encode(), day.to_bytes(8, "big"))
    return sha256(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).digest()


def keys_for(kind: str, network: str, now: float) -> tuple[bytes, ...]:
    """The keys to put and to ask at calendar time ``now``: today's, and the neighbour's within an hour of midnight."""
    days = sorted({int(now - OVERLAP) // DAY, int(now) // DAY, int(now + OVERLAP) // DAY})
    return tuple(provider_key(kind, network, day) for day in days)


class Presence:
    """While ``run`` runs, every advertised kind is found under the keys of the current day."""

    def __init__(
        self,
        discovery: Discovery,
        network: str,
        wall_time: Callable[[], float],
        *,
        dialable: Callable[[], bool] = lambda: True,
    ) -> None:
        """While not ``dialable`` nothing is put: a record without an address helps nobody, and nobody would take it."""
        self._discovery, self._network, self._wall_time, self._dialable = discovery, network, wall_time, dialable
        self._kinds: dict[str, None] = {}
        self._more = trio.Event()

    def advertise(self, kind: str, *, put: bool = False) -> None:
        """From now on, be found as ``kind``; ``put`` says that its records were put just now."""
        self._kinds[kind] = None
        if not put:
            self._more.set()

    def withdraw(self, kind: str) -> None:
        """Put no more records for ``kind``; those that exist run out."""
        self._kinds.pop(kind, None)

    def renew(self) -> None:
        """Where we can be dialled has changed: put every record again, soon."""
        self._more.set()

    async def find(self, kind: str, most: int = 20) -> tuple[PeerAddrs, ...]:
        """Who says to be ``kind`` today, each peer once."""
        found: dict[bytes, PeerAddrs] = {}
        for key in keys_for(kind, self._network, self._wall_time()):
            for peer in await self._discovery.find(key, most):
                found.setdefault(peer.peer, peer)
        return tuple(found.values())[:most]

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Put the records, again and again, until cancelled."""
        task_status.started()
        pause = REPUBLISH_FIRST
        while True:
            self._more = trio.Event()
            reached = await self._put_all()
            with trio.move_on_after(pause if reached else RETRY):
                await self._more.wait()
            pause = REPUBLISH_FIRST if self._more.is_set() else min(REPUBLISH, 2 * pause)

    async def _put_all(self) -> bool:
        if not self._dialable():
            return True
        for kind in tuple(self._kinds):
            for key in keys_for(kind, self._network, self._wall_time()):
                try:
                    await self._discovery.provide(key)
                except Unavailable as exc:
                    log.debug("not_advertised", kind=kind, reason=str(exc))
                    return False
        return True
