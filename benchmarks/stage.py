"""A whole market of processes on loopback for a benchmark, and a client of it in this process.

Every node is a process as a user would start it, with a fresh data directory, its own network name and its own
development chain; everything is stopped and removed at the end. Knows no benchmark.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import trio

from benchmarks.report import NotRun, Say
from market.bidwire import ModelsOnOffer
from market.client import Client
from market.hello import Greeter
from market.overlay import Overlay, Wiring, open_book
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.errors import Unavailable
from p2p.identity import Identity
from p2p.peer import PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

ROOT = Path(__file__).resolve().parent.parent
NODE = (sys.executable, "node.py")
NOOP_ORCHESTRATOR = (sys.executable, "-m", "benchmarks.noop_orchestrator")
READY_S = 120.0
END_S = 5.0
ANYWHERE = "/ip4/127.0.0.1/tcp/0"


class Stage:
    """What is started here is stopped here."""

    def __init__(self, folder: Path, nursery: trio.Nursery, say: Say, settings: dict[str, str]) -> None:
        self._folder, self._nursery, self._say = folder, nursery, say
        self.network = f"bench-{secrets.token_hex(4)}"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("PASAR_")}
        self._env |= {"PASAR_HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), **settings}
        self._joined: list[str] = []
        self.gateway: PeerId
        self.client: Client
        self.overlay: Overlay

    async def open(self) -> None:
        """Chain, bootstrap, gateway, and our own client, connected."""
        chain = await self.start("devchain", [*NODE, "devchain", "--port", "0"])
        self._joined = ["--network", self.network, "--rpc", chain["rpc"], "--broker", chain["broker"]]
        self._joined += ["--listen", ANYWHERE]
        first = await self.start("bootstrap", [*NODE, "--role", "bootstrap", *self._joined])
        self._joined += ["--bootstrap", first["addrs"][0]]
        gateway = await self.start("gateway", [*NODE, "--role", "gateway", *self._joined])
        self.gateway = parse_target(gateway["addrs"][0]).peer
        await self._join(gateway["addrs"][0])

    async def orchestrator(self, name: str, program: Sequence[str], *flags: str) -> dict[str, Any]:
        """One more seller; what its READY line says."""
        return await self.start(name, [*program, *self._joined, *flags])

    async def offered(self, sellers: int) -> ModelsOnOffer:
        """Wait until the gateway knows this many warm offers."""
        with trio.fail_after(READY_S):
            while True:
                found = await self.client.models(self.gateway, PIPELINES[0])
                if found.models and found.models[0].warm >= sellers:
                    return found
                await trio.sleep(0.2)

    async def start(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """Start a process of ours and wait for its READY line. Raises NotRun."""
        found: dict[str, Any] = await self._nursery.start(self._run, name, command)
        return found

    async def _run(self, name: str, command: Sequence[str], *, task_status: TaskStatus[dict[str, Any]]) -> None:
        path = self._folder / f"{name}.log"
        with path.open("wb") as log:
            child = await trio.lowlevel.open_process(
                list(command), stdout=PIPE, stderr=log, cwd=ROOT, env=self._env, start_new_session=True
            )
        try:
            assert child.stdout is not None
            said = b""
            with trio.move_on_after(READY_S):
                while b"\n" not in said and (more := await child.stdout.receive_some()):
                    said += more
            head, _, body = said.partition(b"\n")[0].partition(b" ")
            if head != b"READY":
                raise NotRun(f"{name} did not become ready: {path.read_text(errors='replace')[-2000:]}")
            task_status.started(json.loads(body))
            await child.wait()
        finally:
            with trio.CancelScope(shield=True):
                await end(child)

    async def _join(self, gateway: str) -> None:
        path = self._folder / "client"
        path.mkdir()
        targets = tuple(parse_target(addr) for addr in (gateway, self._joined[-1]))
        wiring = Wiring(self.network, (ANYWHERE,), (), targets, None, (), (), server=False)
        identity = Identity.fresh(development=True)
        self.overlay = Overlay(identity, wiring, await open_book(path, time.time), time.time)
        await self._nursery.start(self.overlay.run)
        with trio.fail_after(READY_S):
            while self.gateway not in self.overlay.host.connected():
                try:
                    await self.overlay.host.connect(targets[0])
                except Unavailable:
                    await trio.sleep(0.2)
        greeter = Greeter(self.network, "client", lambda: None, time.time)
        self.client = Client(self.overlay.host, greeter, self.overlay.reach)


async def end(child: trio.Process) -> None:
    """Ask, wait, then insist. A node's own children end with it."""
    if child.returncode is None:
        child.terminate()
        with trio.move_on_after(END_S):
            await child.wait()
    if child.returncode is None:
        child.kill()
        await child.wait()


@asynccontextmanager
async def stage(say: Say, **settings: str) -> AsyncGenerator[Stage]:
    """A market without sellers; ``settings`` are environment variables of every node."""
    with TemporaryDirectory(prefix="pasar-bench-") as folder:
        async with trio.open_nursery() as nursery:
            made = Stage(Path(folder), nursery, say, settings)
            await made.open()
            say(f"stage: a development chain, a bootstrap and a gateway as processes, network {made.network}")
            yield made
            nursery.cancel_scope.cancel()
