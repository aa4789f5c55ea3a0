"""Getting into the network and staying in: the bootstrap list, and whom the address book remembers.

Each bootstrap peer is kept connected, with a growing pause after every failure. While fewer than ``least`` peers are
connected, the best of the address book are dialled too, so that a network outlives its bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import random
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.addressbook import AddressBook
from p2p.errors import Unavailable
from p2p.peer import peer_text
from p2p.transport import Network, PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LEAST = 4
AT_ONCE = 8

log = structlog.get_logger(__name__)


class Bootstrap:
    """While ``run`` runs, every peer of the list is connected or being tried again."""

    def __init__(
        self,
        network: Network,
        targets: Sequence[PeerAddrs],
        book: AddressBook | None = None,
        *,
        least: int = LEAST,
        chance: Callable[[], float] = random,
    ) -> None:
        self._network, self._book, self._least, self._chance = network, book, least, chance
        self._targets = tuple(target for target in targets if target.peer != network.peer)
        self._hurried = trio.Event()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect and reconnect until cancelled; started at once, whoever needs a peer waits for one himself."""
        async with trio.open_nursery() as nursery:
            for target in self._targets:
                nursery.start_soon(self._keep, target)
            if self._book is not None:
                nursery.start_soon(self._fill, self._book)
            task_status.started()

    def hurry(self) -> None:
        """This machine slept or moved: try everybody at once."""
        self._hurried.set()
        self._hurried = trio.Event()

    async def _pause(self, pause: float) -> bool:
        """Whether the pause went by without hurry."""
        hurried = self._hurried
        with trio.move_on_after(pause * (0.5 + self._chance())):
            await hurried.wait()
        return not hurried.is_set()

    async def _keep(self, target: PeerAddrs) -> None:
        pause = FIRST_PAUSE
        async with self._network.subscribe_peers() as changes:
            while True:
                if await self._connect(target):
                    pause = FIRST_PAUSE
                    while target.peer in self._network.connected():
                        await changes.receive()
                pause = min(LONGEST_PAUSE, 2 * pause) if await self._pause(pause) else FIRST_PAUSE

    async def _fill(self, book: AddressBook) -> None:
        pause = FIRST_PAUSE
        while True:
            connected = self._network.connected()
            if len(connected) < self._least:
                async with trio.open_nursery() as nursery:
                    for target in book.best(AT_ONCE, but={*connected, self._network.peer}):
                        nursery.start_soon(self._connect, target)
            pause = FIRST_PAUSE if len(self._network.connected()) > len(connected) else min(LONGEST_PAUSE, 2 * pause)
            if not await self._pause(pause):
                pause = FIRST_PAUSE

    async def _connect(self, target: PeerAddrs) -> bool:
        try:
            await self._network.connect(target)
        except Unavailable as exc:
            log.debug("not_connected", peer=peer_text(target.peer), reason=str(exc))
            if self._book is not None:
                self._book.failed(target.peer)
            return False
        if self._book is not None:
            self._book.remember(target)
            self._book.succeeded(target.peer)
        return True
