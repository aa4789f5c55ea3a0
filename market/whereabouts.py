"""Whereabouts: tells the book in which subnet the connected sellers are, as their connections show it.

An offer names no address that could be believed. Where a seller is connected its subnet is known, so that a draw takes
one of a subnet, and a full book lets the most crowded one make room. Knows no auction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from market.book import OrderBook
from p2p.peer import PeerId
from p2p.transport import Network

if TYPE_CHECKING:
    from trio_typing import TaskStatus

LOOK_S = 5.0  # for the offers of whoever was connected before it offered anything


class Whereabouts:
    """``subnet`` says where a connected peer is, and None of one that is not."""

    def __init__(
        self, network: Network, book: OrderBook, pipelines: Iterable[str], subnet: Callable[[PeerId], bytes | None]
    ) -> None:
        self._network, self._book, self._subnet = network, book, subnet
        self._pipelines = tuple(pipelines)
        book.subnet_of = subnet

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look now and then, until cancelled."""
        task_status.started()
        while True:
            self.look()
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """Locate whoever is connected and has an offer."""
        for peer in self._network.connected():
            subnet = self._subnet(peer)
            if subnet is not None:
                for pipeline in self._pipelines:
                    self._book.locate(peer, pipeline, subnet)
