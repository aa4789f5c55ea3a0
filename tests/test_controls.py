"""Control lines: one on which a question was cut short is not asked on again, and no place is left held for nobody."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing

from market.controls import ControlLines
from market.hello import Greeter
from market.quote import RFQ
from p2p.errors import Unavailable
from p2p.identity import Identity
from p2p.peer import PeerId
from p2p.transport import Network, Remote
from tests.support.wire_values import example

SELLER = Identity.fresh(development=True).peer


class OneWay:
    """A stream that takes so many writes and then no more; nothing ever comes back on it."""

    peer, remote = SELLER, Remote("127.0.0.1")

    def __init__(self, takes: int) -> None:
        self.left, self.over = takes, trio.Event()

    async def send(self, data: bytes) -> None:
        if not self.left:
            await trio.sleep_forever()
        self.left -= 1
        await trio.lowlevel.checkpoint()

    async def receive(self, most: int = 65536) -> bytes:
        await self.over.wait()
        return b""

    async def reset(self) -> None:
        self.over.set()


class Opening:
    """What of a network control lines use: every stream that was opened, in its order."""

    def __init__(self, *takes: int) -> None:
        self.streams = [OneWay(number) for number in takes]
        self.opened: list[OneWay] = []

    async def open(self, peer: PeerId, protocol: str) -> OneWay:
        self.opened.append(self.streams[len(self.opened)])
        return self.opened[-1]


async def test_an_auction_that_ends_in_the_middle_of_its_question_leaves_no_line_that_says_nothing() -> None:
    network, rfq = Opening(1, 2), cast(RFQ, example(RFQ))  # the hello, and on the second line the question too

    async def reach(peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()

    lines = ControlLines(cast(Network, network), Greeter(rfq.network, "gateway", lambda: None, lambda: 0.0), reach)

    async def ask(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await lines.ask(SELLER, rfq)

    async with trio.open_nursery() as nursery:
        await nursery.start(lines.run)
        first = await nursery.start(ask)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert network.opened[0].over.is_set()
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert [stream.left for stream in network.opened] == [0, 0]
        assert not network.opened[1].over.is_set()
        nursery.cancel_scope.cancel()


async def test_nothing_is_kept_of_sellers_that_are_not_reached() -> None:
    rfq = cast(RFQ, example(RFQ))

    async def reach(peer: PeerId) -> None:
        raise Unavailable("nobody is there")

    lines = ControlLines(cast(Network, Opening()), Greeter(rfq.network, "gateway", lambda: None, lambda: 0.0), reach)
    async with trio.open_nursery() as nursery:
        await nursery.start(lines.run)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await lines.ask(Identity.fresh(development=True).peer, rfq)
        assert not lines._opening
        nursery.cancel_scope.cancel()
