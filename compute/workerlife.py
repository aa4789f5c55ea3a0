"""Keeps one worker process running and healthy: start or find it, connect, watch, kill when it must be, start again.

Shell. Passes messages on, and reads of them only that a job was done; knows no job.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from compute import messages as m
from compute.healthwatch import HealthWatch
from compute.link import Attached, Link, LinkBroken
from compute.workerchild import Child, WorkerConfig, connect, remove_socket, socket_path, spawn
from compute.workerprocess import EXIT_MISCONFIGURED
from p2p.codec import encode
from p2p.errors import Misconfigured, PeerFault
from p2p.framing import frame

START_S = 60.0  # until the socket answers; models load later
FAREWELL_S = 2.0
BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0  # after this long, or after a job that was done, a crash counts as the first again


class Life(Protocol):
    """What keeps one worker, here or elsewhere. Invariant: ``on_down`` is called once for each that ended, before the

    next is there; ``on_up`` hears of every new connection, ``on_message`` of all that the worker says.
    """

    looked: trio.Event  # whether there is a worker from before is known, and what it holds

    @property
    def pid(self) -> int | None:
        """The worker's process id while it runs."""
        ...

    @property
    def connected(self) -> bool:
        """Whether it can be told anything now."""
        ...

    def say(self, message: Any) -> bool:
        """To the worker; False when there is no connection, and nothing was said."""
        ...

    async def run(self) -> None:
        """Until cancelled, which ends the worker too."""
        ...


class WorkerLife(Attached):
    """A child of this process. Raises Misconfigured when its socket has no safe place.

    Invariant: at most one child at a time.
    """

    def __init__(
        self,
        config: WorkerConfig,
        models: frozenset[bytes],
        on_up: Callable[[], None],
        on_message: Callable[[Any], None],
        on_down: Callable[[str], None],
    ) -> None:
        self._config, self._models = config, models
        self._on_up, self._on_message, self._on_down = on_up, on_message, on_down
        socket_path(config.folder, config.name)  # refused before anything runs
        self._child: Child | None = None
        self._verdict = ""
        self._worked = False  # whether the child has finished a job
        self.looked = trio.Event()

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._child.pid if self._child and self._child.alive else None

    async def run(self) -> None:
        """Until cancelled, which ends the worker too. Raises Misconfigured when the worker says it cannot serve."""
        path = socket_path(self._config.folder, self._config.name)  # the last run took the folder away
        failures = 0
        try:
            while True:
                begun = trio.current_time()
                self._verdict = ""
                answered = await self._live_once(path)
                if await self._only_the_line_broke(answered):
                    continue
                await self._bury()
                steady = self._worked or trio.current_time() - begun > STEADY_S
                self._worked, failures = False, 1 if steady else failures + 1
                await trio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1])
        finally:
            if self._child is not None:
                await farewell(path, self._child)
            remove_socket(path)

    async def _live_once(self, path: Path) -> bool:
        """One connection from its start to its end. False when the worker never answered."""
        stream = await connect(path, None, 1.0)
        if stream is None and self._child is None:
            self.looked.set()
            self._child = await spawn(self._config.command(path), path, self._config.threads)
            stream = await connect(path, self._child, START_S)
        if stream is None:
            return False
        link = Link(stream)
        link.say(m.Attach(m.Channel.WORK))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_broken, link.run)
                with trio.move_on_after(START_S):
                    if await self._greet(link):
                        nursery.start_soon(self._watch, path)
                        self._link = link
                        self._on_up()
                if self._link is link:
                    await self._until_broken(self._read, link)
                nursery.cancel_scope.cancel()
        finally:
            answered, self._link = self._link is link, None
            await link.aclose()
        return answered

    async def _greet(self, link: Link) -> bool:
        """Whether the worker is the one that we would start. One that an earlier node left may serve other models."""
        try:
            ready = await link.receive()
        except (LinkBroken, PeerFault):
            return False
        if not isinstance(ready, m.Ready):
            return False
        if self._child is None or self._child.pid != ready.pid:
            self._child = Child.found(ready.pid)
        if frozenset(entry.model for entry in ready.capability.models) != self._models:
            await self._child.kill()  # nobody here has handed it a job, so nothing is lost
            self._child = None
            return False
        self._on_message(ready)
        self.looked.set()
        return True

    async def _read(self, link: Link) -> None:
        async for received in link.messages():
            self._worked = self._worked or isinstance(received, m.JobDone)
            self._on_message(received)

    async def _watch(self, path: Path) -> None:
        """A worker that is silent, stuck or too large is killed."""
        asks = HealthWatch(partial(connect, path, None, START_S), self._config.patience, self._config.ping_s)
        self._verdict = await asks.until_verdict()
        if self._child is not None:
            await self._child.kill()

    async def _until_broken(self, part: Callable[..., Any], *args: Any) -> None:
        """Run one half of a connection; its end is the other half's to see."""
        try:
            await part(*args)
        except* (LinkBroken, PeerFault):
            pass

    async def _only_the_line_broke(self, answered: bool) -> bool:
        """Whether to connect again at once: the worker lives and has all that it had, or there was none of ours."""
        if self._child is None:
            return True
        if not answered or self._verdict:
            return False
        with trio.move_on_after(FAREWELL_S / 4):
            await self._child.wait()
        return self._child.alive

    async def _bury(self) -> None:
        child, self._child = self._child, None
        reason = self._verdict
        if child is not None:
            reason = reason or ended(child)
            await child.kill()
        self._on_down(reason)
        if child is not None and child.exit_code == EXIT_MISCONFIGURED:
            raise Misconfigured("the worker cannot serve with this configuration; its last line above says why")


def ended(child: Child) -> str:
    """How a worker ended, in words."""
    return "ended" if child.exit_code is None else f"ended with {child.exit_code}"


async def farewell(path: Path, child: Child) -> None:
    """Order a worker to end, and see to it that it does."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(FAREWELL_S):
            stream = await connect(path, None, FAREWELL_S)
            if stream is not None:
                async with stream:
                    for order in (m.Attach(m.Channel.WORK), m.End()):
                        await stream.send_all(frame(encode(order)))
                    await child.wait()
        await child.kill()
