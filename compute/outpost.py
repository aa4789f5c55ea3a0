"""The outpost: keeps the worker of this host for an orchestrator on another one.

    go in (TLS, key, welcome) -> the worker, found or started -> bytes both ways until one end is gone -> go in again

It passes the worker's bytes on without reading them, and watches its health itself: what is stuck here is killed here.
Without an orchestrator the worker ends after a minute by itself, as always. Shell; knows no job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from compute import messages as m
from compute.handshake import go_in
from compute.healthwatch import SILENCE_S, HealthWatch
from compute.joinkey import JoinKey
from compute.joinwire import WorkerJoin
from compute.link import Link, LinkBroken
from compute.workerchild import Child, WorkerConfig, connect, remove_socket, socket_path, spawn
from compute.workerlife import BACK_OFF_S, START_S, STEADY_S, ended, farewell
from compute.workerprocess import EXIT_MISCONFIGURED
from p2p.errors import Misconfigured, PeerFault, Refused, Unavailable

HOPELESS = ("WRONG_KEY", "WRONG_CERTIFICATE", "NO_MODEL", "NO_CHECKER")  # another try would find the same
RETRY_S = (0.2, 0.5, 1.0, 2.0)  # a node that restarts is found while it still waits for its workers
_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Door:
    """Where the orchestrator is, and what it takes to come in."""

    host: str
    port: int
    key: JoinKey
    name: str
    instance: bytes


class Outpost:
    """Invariant: at most one worker. ``models`` says where each lies that this host could serve."""

    def __init__(
        self, config: WorkerConfig, door: Door, models: Mapping[bytes, Path], say: Callable[[str], None]
    ) -> None:
        """``say`` tells the operator what happens."""
        self._config, self._door, self._models, self._say = config, door, dict(models), say
        self._path = socket_path(config.folder, config.name)
        self._child: Child | None = None
        self._serves: tuple[bytes, ...] = ()

    async def run(self) -> None:
        """Until cancelled, which ends the worker. Raises Misconfigured when another try would be in vain."""
        failures = 0
        try:
            while True:
                work, models = await self._come_in()
                begun = trio.current_time()
                try:
                    alive = await self._serve(work, models)
                finally:
                    await trio.aclose_forcefully(work)
                failures = 0 if alive or trio.current_time() - begun > STEADY_S else failures + 1
                await trio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1] if failures else RETRY_S[0])
        finally:
            if self._child is not None:
                await farewell(self._path, self._child)
            remove_socket(self._path)

    # -- the orchestrator --------------------------------------------------------------------------------------------

    async def _come_in(self) -> tuple[trio.abc.Stream, tuple[bytes, ...]]:
        """A work connection and what is to be served, however long it takes."""
        tries, told = 0, ""
        while True:
            try:
                stream, models = await self._go_in(m.Channel.WORK)
            except Refused as exc:
                if exc.code in HOPELESS:
                    raise Misconfigured(f"connect: {exc}") from exc
                why = str(exc)
            except (Unavailable, PeerFault) as exc:
                why = str(exc)
            else:
                self._say(f"connected to {self._door.host}:{self._door.port}")
                return stream, models
            if why != told:
                self._say(f"{why}; trying again")
            tries, told = tries + 1, why
            await trio.sleep(RETRY_S[min(tries, len(RETRY_S)) - 1])

    async def _go_in(self, channel: m.Channel) -> tuple[trio.abc.Stream, tuple[bytes, ...]]:
        door = self._door
        checks = self._config.checking is not None
        join = WorkerJoin(door.name, door.instance, channel, tuple(self._models), checks)
        stream, welcome = await go_in(door.host, door.port, door.key, join)
        return stream, welcome.models

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _serve(self, work: trio.abc.Stream, models: tuple[bytes, ...]) -> bool:
        """Until one end is gone; whether the worker lives on. Raises Misconfigured when it cannot serve at all."""
        child = await self._worker_for(models)
        near = await connect(self._path, child, START_S)
        if near is not None:
            async with near, trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, child)
                nursery.start_soon(self._pass_health)
                await splice(work, near)
                nursery.cancel_scope.cancel()
        with trio.move_on_after(0.5):
            await child.wait()
        if near is not None and child.alive:
            return True
        self._child = None
        await child.kill()
        self._say(f"the worker {ended(child)}")
        if child.exit_code == EXIT_MISCONFIGURED:
            raise Misconfigured("the worker cannot serve with this configuration; its last line above says why")
        return False

    async def _worker_for(self, models: tuple[bytes, ...]) -> Child:
        """The worker that serves these: ours, one that an earlier outpost left, or a new one."""
        missing = [model for model in models if model not in self._models]
        if missing:
            raise Misconfigured(f"connect: the orchestrator wants a model that is not here: {missing[0].hex()}")
        if self._child is None:
            self._child, self._serves = await self._left_behind()
        if self._child is not None and (set(self._serves) != set(models) or not self._child.alive):
            await farewell(self._path, self._child)
            self._child = None
        if self._child is None:
            config = replace(self._config, models=tuple(self._models[model] for model in models))
            self._child = await spawn(config.command(self._path), self._path, config.threads)
            self._serves = models
        return self._child

    async def _left_behind(self) -> tuple[Child | None, tuple[bytes, ...]]:
        """A worker that answers already, and what it serves."""
        stream = await connect(self._path, None, 1.0)
        if stream is None:
            return None, ()
        link, found = Link(stream), None
        with trio.move_on_after(START_S), suppress(LinkBroken, PeerFault):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                link.say(m.Attach(m.Channel.WORK))
                found = await link.receive()
                nursery.cancel_scope.cancel()
        await link.aclose()
        if not isinstance(found, m.Ready):
            return None, ()
        return Child.found(found.pid), tuple(entry.model for entry in found.capability.models)

    async def _watch(self, child: Child) -> None:
        """A worker that is silent, stuck or too large is killed."""
        asks = HealthWatch(partial(connect, self._path, None, START_S), self._config.patience, self._config.ping_s)
        self._say(f"the worker must go: {await asks.until_verdict()}")
        await child.kill()

    async def _pass_health(self) -> None:
        """The orchestrator asks for health itself, on a connection of its own."""
        while True:
            with suppress(Refused, Unavailable, PeerFault):
                far, _ = await self._go_in(m.Channel.HEALTH)
                try:
                    near = await connect(self._path, None, START_S)
                    if near is not None:
                        async with near:
                            await splice(far, near, SILENCE_S)
                finally:
                    await trio.aclose_forcefully(far)
            await trio.sleep(self._config.ping_s)


async def splice(one: trio.abc.Stream, other: trio.abc.Stream, silence_s: float = float("inf")) -> None:
    """Bytes both ways until one end is gone, or ``one`` said nothing for so long."""
    async with trio.open_nursery() as nursery:

        async def pour(source: trio.abc.Stream, to: trio.abc.Stream, patience_s: float) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                while True:
                    with trio.fail_after(patience_s):
                        data = await source.receive_some(_CHUNK)
                    if not data:
                        break
                    await to.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(pour, one, other, silence_s)
        nursery.start_soon(pour, other, one, float("inf"))
