"""Keeper: keeps connections with the peers that a node wants: dials them, and dials again whoever is lost.

    keeper = Keeper(network, book)
    await nursery.start(keeper.run)
    await keeper.meet(targets)        # wanted from now on; dialled, as far as they are due, when this returns

When to dial whom is ``p2p/redial.py``'s. Knows no role and where no target comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import random
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.addressbook import AddressBook
from p2p.errors import Unavailable
from p2p.peer import PeerId, peer_text
from p2p.redial import Redials
from p2p.transport import Network, PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MOST_NEIGHBOURS = 64
AT_ONCE = 16

log = structlog.get_logger(__name__)


class Keeper:
    """Dials while fewer than ``most`` peers are connected, each peer once at a time."""

    def __init__(
        self,
        network: Network,
        book: AddressBook | None = None,
        *,
        most: int = MOST_NEIGHBOURS,
        chance: Callable[[], float] = random,
    ) -> None:
        self._network, self._book, self._most, self._chance = network, book, most, chance
        self._redials = Redials()
        self._dialling: set[PeerId] = set()
        self._changed = trio.Event()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dial again whoever was lost, until cancelled."""
        async with self._network.subscribe_peers() as changes, trio.open_nursery() as nursery:
            nursery.start_soon(self._redial, nursery)
            task_status.started()
            async for change in changes:
                now = trio.current_time()
                if change.connected:
                    self._redials.met(change.peer, now)
                elif change.peer not in self._network.connected():
                    self._redials.missed(change.peer, now, self._chance())
                    self._wake_up()

    async def meet(self, targets: Iterable[PeerAddrs]) -> None:
        """Want these from now on, and dial those that are due. A peer that failed before keeps its pause."""
        now, connected = trio.current_time(), self._network.connected()
        for target in targets:
            if target.peer != self._network.peer:
                self._redials.want(target, now)
                if target.peer in connected:
                    self._redials.met(target.peer, now)
        async with trio.open_nursery() as nursery:
            self._dial_due(nursery)

    def __contains__(self, peer: object) -> bool:
        """Whether it is wanted."""
        return peer in self._redials

    def forget(self, peer: PeerId) -> None:
        """It is wanted no more; a connection stays as it is."""
        self._redials.forget(peer)

    def wake(self) -> None:
        """This machine slept or moved: nobody's pause counts any more."""
        self._redials.wake(trio.current_time())
        self._wake_up()

    async def _redial(self, nursery: trio.Nursery) -> None:
        while True:
            self._changed = trio.Event()
            self._dial_due(nursery)
            taken = {*self._network.connected(), *self._dialling}
            deadline = self._redials.next_due(taken) if len(taken) < self._most else float("inf")
            with trio.move_on_at(deadline):
                await self._changed.wait()

    def _dial_due(self, nursery: trio.Nursery) -> None:
        taken = {*self._network.connected(), *self._dialling}
        room = min(AT_ONCE, self._most - len(taken))
        due = self._redials.due(trio.current_time(), taken, room)
        for target in due:
            self._dialling.add(target.peer)
            nursery.start_soon(self._dial, target)

    async def _dial(self, target: PeerAddrs) -> None:
        try:
            await self._network.connect(target)
        except Unavailable as exc:
            log.debug("not connected", peer=peer_text(target.peer), reason=str(exc))
            self._redials.missed(target.peer, trio.current_time(), self._chance())
            if self._book is not None:
                self._book.failed(target.peer)
        else:
            self._redials.met(target.peer, trio.current_time())
            if self._book is not None:
                self._book.succeeded(target.peer)
        finally:
            self._dialling.discard(target.peer)
            self._wake_up()

    def _wake_up(self) -> None:
        self._changed.set()
