"""A whole market of processes on loopback for a benchmark, and a client of it in this process.

Every node is a process as a user would start it, with a fresh data directory, its own network name and its own
development chain; everything is stopped and removed at the end. Knows no benchmark.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
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
        self._scopes: dict[str, trio.CancelScope] = {}
        self.pids: dict[str, int] = {}  # of what was started, by name: of a node, its supervisor's
        self.ready: dict[str, dict[str, Any]] = {}
        self.gateway: PeerId
        self.client: Client
        self.overlay: Overlay

    async def open(self) -> None:
        """Chain, bootstrap, gateway, and our own client, connected."""
        self.joins(await self.start("devchain", [*NODE, "devchain", "--port", "0"]))
        first = await self.start("bootstrap", [*NODE, "--role", "bootstrap", *self._joined])
        self._joined += ["--bootstrap", first["addrs"][0]]
        gateway = await self.node("gateway", "gateway")
        await self.join(gateway["addrs"][0])

    def joins(self, chain: dict[str, Any], *bootstraps: str) -> None:
        """What every node that is started from now on is told: the network, the chain, whom to dial first."""
        self._joined = ["--network", self.network, "--rpc", chain["rpc"], "--broker", chain["broker"]]
        self._joined += ["--listen", ANYWHERE]
        for addr in bootstraps:
            self._joined += ["--bootstrap", addr]

    async def node(self, role: str, name: str, *flags: str) -> dict[str, Any]:
        """A node as ``node.py`` runs it; what its READY line says."""
        return await self.start(name, [*NODE, "--role", role, *self._joined, *flags])

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

    def log_of(self, name: str) -> Path:
        """What a process of ours said on stderr."""
        return self._folder / f"{name}.log"

    def stop(self, name: str) -> None:
        """End one process of ours."""
        self._scopes[name].cancel()

    async def start(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """Start a process of ours and wait for its READY line. Raises NotRun."""
        found: dict[str, Any] = await self._nursery.start(self._run, name, command)
        return found

    async def _run(self, name: str, command: Sequence[str], *, task_status: TaskStatus[dict[str, Any]]) -> None:
        path = self.log_of(name)
        with path.open("wb") as log:
            child = await trio.lowlevel.open_process(
                list(command), stdout=PIPE, stderr=log, cwd=ROOT, env=self._env, start_new_session=True
            )
        self.pids[name] = child.pid
        try:
            assert child.stdout is not None
            said = b""
            with trio.move_on_after(READY_S):
                while b"\n" not in said and (more := await child.stdout.receive_some()):
                    said += more
            head, _, body = said.partition(b"\n")[0].partition(b" ")
            if head != b"READY":
                raise NotRun(f"{name} did not become ready: {path.read_text(errors='replace')[-2000:]}")
            self.ready[name] = json.loads(body)
            task_status.started(self.ready[name])
            with trio.CancelScope() as self._scopes[name]:
                await child.wait()
        finally:
            with trio.CancelScope(shield=True):
                await end(child)

    async def join(self, gateway: str) -> None:
        """Have a client of our own, connected with this peer."""
        self.gateway = parse_target(gateway).peer
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
    """Ask, wait, then insist: a supervisor, its node and what that started share a session."""
    if child.returncode is None:
        child.terminate()
        with trio.move_on_after(END_S):
            await child.wait()
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


@asynccontextmanager
async def stage(say: Say, **settings: str) -> AsyncGenerator[Stage]:
    """A market without sellers; ``settings`` are environment variables of every node."""
    async with empty_stage(say, **settings) as made:
        await made.open()
        say(f"stage: a development chain, a bootstrap and a gateway as processes, network {made.network}")
        yield made


@asynccontextmanager
async def empty_stage(say: Say, **settings: str) -> AsyncGenerator[Stage]:
    """A stage on which nothing runs yet."""
    with TemporaryDirectory(prefix="pasar-bench-") as folder:
        async with trio.open_nursery() as nursery:
            yield Stage(Path(folder), nursery, say, settings)
            nursery.cancel_scope.cancel()
