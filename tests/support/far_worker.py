"""A worker that comes over TLS, with a line between that a test can cut: door, outpost and worker process are real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from compute.digestcache import DigestCache
from compute.doorway import Doorway
from compute.joinkey import KEY_FILE, JoinKey, read_join_key
from compute.outpost import Door, Outpost, splice
from compute.served import Served, read_folders
from compute.workerchild import WorkerConfig
from tests.contracts.worker import Stand, until


@dataclass
class Cable:
    """Passes connections on to ``port``; ``cut`` ends those that are open, ``dead`` keeps out new ones."""

    port: int
    own: int = 0
    dead: bool = False
    _open: set[trio.SocketStream] = field(default_factory=set)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.own = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._pass, listeners)

    async def cut(self) -> None:
        """Everything that is open breaks at both ends."""
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def _pass(self, near: trio.SocketStream) -> None:
        async with near:
            if self.dead:
                return
            with suppress(OSError):
                async with await trio.open_tcp_stream("127.0.0.1", self.port) as far:
                    self._open |= {near, far}
                    await splice(near, far)
                    self._open -= {near, far}


def served_of(config: WorkerConfig) -> Served:
    """What a door wants served: the models of the worker."""
    return read_folders(config.models, DigestCache(config.digests))


def key_of(folder: Path) -> JoinKey:
    """The key that an operator would copy."""
    return read_join_key(folder / KEY_FILE)


def outpost_of(
    config: WorkerConfig, port: int, key: JoinKey, name: str = "far", instance: bytes = b"i" * 16
) -> Outpost:
    """The far end."""
    models = {entry.model: Path(entry.folder) for entry in served_of(config).entries}
    return Outpost(config, Door("127.0.0.1", port, key, name, instance), models, lambda text: None)


@dataclass(frozen=True)
class Far:
    """Both ends and the cable between."""

    door: Doorway
    cable: Cable
    stand: Stand


@asynccontextmanager
async def far_worker(config: WorkerConfig, *, away_s: float = 60.0) -> AsyncIterator[Far]:
    """A worker that has come."""
    door = Doorway("127.0.0.1", 0, config.folder, away_s=away_s)
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            await nursery.start(door.run, served_of(config))
            cable = Cable(door.port)
            await nursery.start(cable.run)
            nursery.start_soon(outpost_of(config, cable.own, key_of(config.folder)).run)
            await until(lambda: door.workers and door.workers[0].connected)
            yield Far(door, cable, Stand(door.workers[0], config.folder / "traces" / config.name))
            nursery.cancel_scope.cancel()
