"""A worker of another host as the node sees it: connections come in, and come in again when the line was lost.

Its process is kept over there (``compute/outpost.py``). Here it counts as ended when another process answers under its
name, when its health says it must go, or when it was away for as long as a worker waits for its node. Shell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import trio

from compute import messages as m
from compute.healthwatch import HealthWatch
from compute.link import Attached, Link, LinkBroken
from compute.workerchild import WorkerConfig
from compute.workerlife import START_S
from p2p.errors import PeerFault

LAST_WORDS_S = 1.0


@contextmanager
def _told_too_much() -> Iterator[None]:
    """Another host is not our own child: one that says more than a job can have to say is left, and no harm is done."""
    try:
        yield
    except trio.WouldBlock as exc:
        raise PeerFault("more about a job than there can be") from exc


class Berth:
    """Where one worker's connections of one kind arrive: the newest counts, an older one that waits is closed."""

    def __init__(self) -> None:
        self._put, self._get = trio.open_memory_channel[trio.abc.Stream](1)

    async def arrive(self, stream: trio.abc.Stream) -> None:
        """One more."""
        older = self._waiting()
        self._put.send_nowait(stream)
        if older is not None:
            await trio.aclose_forcefully(older)

    async def next(self) -> trio.abc.Stream:
        """The one that waits, or the next that comes."""
        return await self._get.receive()

    async def close(self) -> None:
        """Nobody comes for the one that waits."""
        older = self._waiting()
        if older is not None:
            await trio.aclose_forcefully(older)

    def _waiting(self) -> trio.abc.Stream | None:
        with suppress(trio.WouldBlock):
            return self._get.receive_nowait()
        return None


@dataclass(frozen=True, slots=True)
class Berths:
    """Both kinds of one worker's connections."""

    work: Berth
    health: Berth

    def of(self, channel: m.Channel) -> Berth:
        """Those of one kind."""
        return self.work if channel is m.Channel.WORK else self.health


class RemoteLife(Attached):
    """A ``Life`` whose worker comes to us. ``run`` returns when it has been away for too long."""

    def __init__(
        self,
        berths: Berths,
        config: WorkerConfig,
        models: frozenset[bytes],
        on_up: Callable[[], None],
        on_message: Callable[[Any], None],
        on_down: Callable[[str], None],
    ) -> None:
        self._berths, self._config, self._models = berths, config, models
        self._on_up, self._on_message, self._on_down = on_up, on_message, on_down
        self._pid: int | None = None
        self.looked = trio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id on its own host, which means nothing on this one."""
        return self._pid

    async def run(self) -> None:
        """Serve one connection after the other, each until it breaks or a newer one is there."""
        waiting: trio.abc.Stream | None = None
        while True:
            if waiting is None:
                with trio.move_on_after(self._config.orphan_s):
                    waiting = await self._berths.work.next()
            if waiting is None:
                self._end(f"away for {self._config.orphan_s:.0f} s")
                return
            stream, waiting = waiting, None
            waiting = await self._serve(stream)

    async def _serve(self, stream: trio.abc.Stream) -> trio.abc.Stream | None:
        """One connection to its end; the one that took its place, if one did."""
        link, newer = Link(stream), list[trio.abc.Stream]()
        try:
            link.say(m.Attach(m.Channel.WORK))
            async with trio.open_nursery() as nursery:

                async def part(work: Callable[[], Awaitable[Any]]) -> None:
                    """The first part that ends, ends them all."""
                    try:
                        await work()
                    except* (LinkBroken, PeerFault):
                        pass
                    nursery.cancel_scope.cancel()

                async def replaced() -> None:
                    newer.append(await self._berths.work.next())

                nursery.start_soon(part, link.run)
                nursery.start_soon(part, replaced)
                nursery.start_soon(part, lambda: self._talk(link, nursery, part))
        except BaseException:
            for stream in newer:
                await trio.aclose_forcefully(stream)
            raise
        finally:
            self._link = None
            self.looked.set()
            await link.aclose()
        return newer[0] if newer else None

    async def _talk(self, link: Link, nursery: trio.Nursery, part: Callable[..., Awaitable[None]]) -> None:
        with trio.move_on_after(START_S):
            ready = await link.receive()
            if not isinstance(ready, m.Ready) or not self._as_wanted(ready):
                return
            if self._pid is not None and self._pid != ready.pid:
                self._end("ended")
            self._pid, self._link = ready.pid, link
            self._on_message(ready)
            self.looked.set()
            self._on_up()
            nursery.start_soon(part, lambda: self._watch(link))
        if self._link is link:
            async for received in link.messages():
                if isinstance(received, m.Ready) and not self._as_wanted(received):
                    return
                with _told_too_much():
                    self._on_message(received)

    def _as_wanted(self, ready: m.Ready) -> bool:
        """Whether it serves what it was welcomed for."""
        return frozenset(entry.model for entry in ready.capability.models) == self._models

    async def _watch(self, link: Link) -> None:
        """One that must go is ordered to end; over there it is killed where it does not."""

        async def next_health() -> trio.abc.Stream | None:
            with trio.move_on_after(START_S):
                return await self._berths.health.next()
            return None

        asks = HealthWatch(next_health, self._config.patience, self._config.ping_s)
        why = await asks.until_verdict()
        if asks.silent:
            return  # the line may be dead and not the worker: it comes back, or it does not
        self._end(why)
        link.say(m.End())
        with trio.move_on_after(LAST_WORDS_S):
            await link.flush()

    def _end(self, reason: str) -> None:
        """Whatever was there is lost; once for each process."""
        if self._pid is not None:
            self._pid = self._link = None
            self._on_down(reason)
