"""ReadyStreams: job streams opened ahead, so that an award need not wait for one.

One for each seller that gave a quote lately, our hello said and theirs heard. A stream on which the seller says
anything before its award, or that ends, is let go; so is one that nobody took for a while. Knows no award.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
import trio

from market.conversation import closing
from market.hello import Greeter
from market.protocol import JOB
from p2p.errors import PasarError
from p2p.peer import PeerId, peer_text
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Network

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

MAX_READY = 64
UNUSED_S = 60.0  # the sellers of this version wait twice as long
MAX_ASKED = 64  # sellers that wait for a stream to be opened

Greet = Callable[[], Awaitable[object]] | None


class _Ready:
    """One stream that waits for its award."""

    def __init__(self, stream: MessageStream) -> None:
        self.stream = stream
        self.watch = trio.CancelScope()
        self.taken = False


class ReadyStreams:
    """At most one ready stream per seller and ``MAX_READY`` in all; the one that waits for longest goes first."""

    def __init__(self, network: Network, greeter: Greeter, reach: Callable[[PeerId], Awaitable[None]]) -> None:
        self._network, self._greeter, self._reach = network, greeter, reach
        self._ready: OrderedDict[PeerId, _Ready] = OrderedDict()
        self._ask, self._asked = trio.open_memory_channel[PeerId](MAX_ASKED)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open what was asked for, and watch what is ready, until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for seller in self._asked:
                if seller not in self._ready:
                    nursery.start_soon(self._prepare, seller)

    def prepare(self, seller: PeerId) -> None:
        """Have a stream ready for this seller's next award. Costs the caller nothing; may come to nothing."""
        if seller not in self._ready:
            try:
                self._ask.send_nowait(seller)
            except trio.WouldBlock:
                log.debug("no stream prepared", seller=peer_text(seller), reason="too many are asked for")

    async def take(self, seller: PeerId) -> tuple[MessageStream, Greet]:
        """A job stream with this seller, our hello said; and how to hear theirs where that is still to come.

        It is the caller's to close. Raises Unavailable when the seller cannot be reached.
        """
        ready = self._ready.pop(seller, None)
        if ready is not None:
            ready.taken = True
            ready.watch.cancel()
            return ready.stream, None
        await self._reach(seller)
        stream = await self._open(seller)
        return stream, lambda: self._greeter.hear(stream)

    async def _open(self, seller: PeerId) -> MessageStream:
        stream = MessageStream(await self._network.open(seller, JOB), JOB_FRAME)
        try:
            await self._greeter.say(stream)
        except BaseException:
            await closing(stream)
            raise
        return stream

    async def _prepare(self, seller: PeerId) -> None:
        """Open one, and watch it until it is taken."""
        if seller not in self._network.connected():
            return  # whoever is not here now is dialled when there is something to say
        try:
            ready = _Ready(await self._open(seller))
        except PasarError as exc:
            log.debug("no stream prepared", seller=peer_text(seller), reason=str(exc))
            return
        try:
            await self._watch(seller, ready)
        finally:
            if self._ready.get(seller) is ready:
                del self._ready[seller]
            if not ready.taken:
                await closing(ready.stream)

    async def _watch(self, seller: PeerId, ready: _Ready) -> None:
        with ready.watch, trio.move_on_after(UNUSED_S):
            try:
                await self._greeter.hear(ready.stream)
                earlier, self._ready[seller] = self._ready.get(seller), ready
                if earlier is not None:
                    earlier.watch.cancel()
                if len(self._ready) > MAX_READY:
                    self._ready.popitem(last=False)[1].watch.cancel()
                await ready.stream.receive()
            except PasarError as exc:
                log.debug("a ready stream is lost", seller=peer_text(seller), reason=str(exc))
