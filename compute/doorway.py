"""The doorway: where workers of other hosts come in, over TLS, when they have the key.

    accept -> (address not tried out) -> let_in: TLS, proofs, who -> welcome -> its berths -> Worker over RemoteLife

Whoever has no key costs a handshake, a few times, then nothing but a closed connection. Shell; knows no job.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from compute.handshake import answer, let_in
from compute.joinkey import JoinKey, open_door_key
from compute.joinwire import WorkerDeclined, WorkerJoin, WorkerWelcome
from compute.messages import Channel
from compute.opendevice import ORPHAN_S
from compute.remotelife import Berth, Berths, RemoteLife
from compute.served import Served
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from p2p.admission import RateLimit
from p2p.errors import Misconfigured, PeerFault, Refused, Unavailable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

MAX_GUESTS = 16  # workers of other hosts
MAX_MEETING = 16  # connections that have not shown the key yet
MEET_S = 10.0  # that they may take for it
TRIES, TRIES_A_SECOND = 5.0, 0.1  # without success, of one address
FULL_S = 0.1
REJOIN_S = 5.0  # after a start: workers from before come back in this time
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True, slots=True)
class Guest:
    """One worker of another host."""

    instance: bytes
    worker: Worker
    berths: Berths


class Doorway:
    """Invariant: one guest a name. A guest is there from its first work connection until it was away for too long."""

    def __init__(self, host: str, port: int, folder: Path, *, away_s: float = ORPHAN_S) -> None:
        """``folder`` is private and keeps certificate and key; ``away_s`` is how long a guest is waited for.

        Raises Misconfigured for files that are there and not ours.
        """
        self._host, self.port, self._away_s = host, port, away_s
        self._key: JoinKey
        self._context: ssl.SSLContext
        self._key, self._context = open_door_key(folder)
        self._guests: dict[str, Guest] = {}
        self._tries = RateLimit(TRIES_A_SECOND, TRIES)
        self._meeting = 0
        self._served = Served((), frozenset())
        self._nursery: trio.Nursery | None = None
        self.settled = trio.Event()  # those who were here before a restart had time to come back

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All that are here, or are waited for."""
        return tuple(guest.worker for guest in self._guests.values())

    async def run(self, served: Served, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; guests serve exactly ``served``. Raises Misconfigured when it cannot listen."""
        self._served = served
        try:
            listeners = await trio.open_tcp_listeners(self.port, host=self._host)
        except OSError as exc:
            raise Misconfigured(f"devices: cannot listen on {self._host}:{self.port}: {exc.strerror or exc}") from exc
        self.port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._settle)
            for listener in listeners:
                self._nursery.start_soon(self._accept, listener)
            log.info("workers of other hosts may come", host=self._host, port=self.port)
            task_status.started()

    async def _accept(self, listener: trio.SocketListener) -> None:
        """Not trio's own loop, which closes each connection when its handler ends: ours live on with their worker."""
        assert self._nursery is not None
        async with listener:
            while True:
                try:
                    raw = await listener.accept()
                except OSError:  # no descriptor is free
                    await trio.sleep(FULL_S)
                    continue
                self._nursery.start_soon(self._meet, raw)

    async def _settle(self) -> None:
        await trio.sleep(REJOIN_S)
        self.settled.set()

    async def _meet(self, raw: trio.SocketStream) -> None:
        """One connection, until it is refused or handed to its worker."""
        handed = False
        try:
            _keep_alive(raw)
            address = _address(raw)
            if self._meeting >= MAX_MEETING or not self._tries.allow(address, trio.current_time()):
                raise Refused("TOO_MANY", "connections without the key")
            self._meeting += 1
            try:
                with trio.fail_after(MEET_S):
                    stream, join = await let_in(raw, self._key, self._context)
                    self._tries.allow(address, trio.current_time(), -1.0)  # given back: it has the key
                    said = self._judged(join)
                    await answer(stream, said)
            finally:
                self._meeting -= 1
            if isinstance(said, WorkerWelcome):
                berth = self._seated(join).of(join.channel)
                handed = True
                await berth.arrive(stream)
            else:
                log.warning("worker declined", name=join.name, code=said.code)
        except (Refused, PeerFault, Unavailable, trio.TooSlowError, OSError) as exc:
            log.warning("worker turned away", reason=str(exc) or type(exc).__name__)
        finally:
            if not handed:
                await trio.aclose_forcefully(raw)

    def _judged(self, join: WorkerJoin) -> WorkerWelcome | WorkerDeclined:
        """Whether this worker may come now."""
        missing = [entry.name for entry in self._served.entries if entry.model not in join.models]
        if missing:
            return WorkerDeclined("NO_MODEL", f"these are not on your host: {', '.join(missing)}"[:200])
        if self._served.checking is not None and not join.checks:
            return WorkerDeclined("NO_CHECKER", "results are checked here; name the same checker on your host")
        guest = self._guests.get(join.name)
        if guest is not None and guest.instance != join.instance:
            return WorkerDeclined("NAME_TAKEN", "another worker of this name is here, or was a minute ago")
        if guest is None and join.channel is Channel.HEALTH:
            return WorkerDeclined("UNKNOWN", "work comes before health")
        if guest is None and len(self._guests) >= MAX_GUESTS:
            return WorkerDeclined("TOO_MANY", f"{MAX_GUESTS} workers of other hosts are here")
        if guest is None:
            self._begin(join)
        return WorkerWelcome(tuple(entry.model for entry in self._served.entries))

    def _begin(self, join: WorkerJoin) -> None:
        assert self._nursery is not None
        berths = Berths(Berth(), Berth())
        config = WorkerConfig(Path(), self._served.folders, name=join.name, orphan_s=self._away_s)
        served = self._served
        worker = Worker(config, lambda: served, partial(RemoteLife, berths))
        self._guests[join.name] = Guest(join.instance, worker, berths)
        self._nursery.start_soon(self._keep, join.name, worker)

    def _seated(self, join: WorkerJoin) -> Berths:
        """Where a worker that was welcomed belongs; it may have left while the answer was on its way."""
        if join.name not in self._guests:
            raise Unavailable("it was away for too long just now")
        return self._guests[join.name].berths

    async def _keep(self, name: str, worker: Worker) -> None:
        log.info("worker of another host came", name=name)
        try:
            await worker.run()
        finally:
            gone = self._guests.pop(name)
            with trio.CancelScope(shield=True):
                await gone.berths.work.close()
                await gone.berths.health.close()
            log.info("worker of another host left", name=name)


def _keep_alive(raw: trio.SocketStream) -> None:
    """A host that vanished is noticed within half a minute, also while nobody says anything."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not all of them on macOS
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _address(raw: trio.SocketStream) -> str:
    """Whose tries are counted together: an address, of IPv6 the network that one customer has."""
    ip = ip_address(raw.socket.getpeername()[0].partition("%")[0])
    return str(int(ip) >> 64) if isinstance(ip, IPv6Address) and ip.ipv4_mapped is None else str(ip)
