"""Asks a worker for its health on connections of their own, until it must go. Shell; what that is, the verdict says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from compute import messages as m
from compute.link import Link, LinkBroken
from compute.verdict import Patience, verdict
from p2p.errors import PeerFault

SILENCE_S = 30.0  # importing a model library may hold the interpreter for seconds

Open = Callable[[], Awaitable[trio.abc.Stream | None]]


class HealthWatch:
    """``until_verdict`` returns when the worker must go, and says why. A connection that ends is opened again."""

    def __init__(self, open_one: Open, patience: Patience, ping_s: float) -> None:
        """``open_one`` gives a connection; None when nobody answers, which the other connection tells better."""
        self._open, self._patience, self._ping_s = open_one, patience, ping_s
        self.silent = False  # whether the verdict is that it said nothing at all

    async def until_verdict(self) -> str:
        """Why it must go."""
        while True:
            stream = await self._open()
            if stream is None:
                await trio.sleep(self._ping_s)
                continue
            link = Link(stream)
            try:
                found = await self._ask(link)
            finally:
                await link.aclose()
            if found:
                return found

    async def _ask(self, link: Link) -> str:
        """The verdict of one connection; empty when it only ended."""
        found = ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                found = await self._ping(link)
                nursery.cancel_scope.cancel()
        except* (LinkBroken, PeerFault):
            pass
        return found

    async def _ping(self, link: Link) -> str:
        link.say(m.Attach(m.Channel.HEALTH))
        number, found = 0, ""
        while not found:
            number += 1
            link.say(m.Ping(number))
            with trio.move_on_after(SILENCE_S) as silence:
                found = verdict(await link.receive(), self._patience)
            if silence.cancelled_caught:
                self.silent = True
                return f"silent for {SILENCE_S:.0f} s"
            if not found:
                await trio.sleep(self._ping_s)
        return found
