"""mDNS: names this node to the machines of its LAN, and hears of theirs; whoever wants to, dials them.

    lan = LocalNames(peer, network, addrs=host.addrs, found=...)
    await nursery.start(lan.run)

DNS-SD under ``_pasar._tcp.local.``, a fresh random name at each start, addresses in TXT records as libp2p writes them.
What a LAN says is bounded in number, is of our network, and is no address outside a LAN: nobody in it can make us dial
the world. zeroconf runs in threads of its own; nothing of it blocks the loop.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING

import structlog
import trio
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from p2p.addresses import MAX_ADDRS, is_local, usable_addrs
from p2p.errors import MalformedMessage
from p2p.peer import PeerId, parse_peer
from p2p.transport import PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

SERVICE = "_pasar._tcp.local."
MAX_NAMES = 128  # in the life of one LocalNames; a LAN with more has other means
MAX_WAITING = 32
LOOK_MS = 3000
_threads = trio.CapacityLimiter(2)

log = structlog.get_logger(__name__)


class _Listener(ServiceListener):
    """Hears names in zeroconf's thread and hands them to the loop; knows nothing else."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self._hear(name)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self._hear(name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        pass


class LocalNames:
    """At most ``MAX_NAMES`` names are ever looked at, and as many peers named; ``found`` is called in the loop."""

    def __init__(
        self,
        peer: PeerId,
        network: str,
        *,
        addrs: Callable[[], tuple[str, ...]],
        found: Callable[[PeerAddrs], None],
    ) -> None:
        self._peer, self._network, self._addrs, self._found = peer, network, addrs, found
        self._name = f"{secrets.token_hex(16)}.{SERVICE}"
        self._names: set[str] = set()
        self._peers: set[PeerId] = set()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be named, and hear names, until cancelled. A LAN that has no multicast is logged, and that is all."""
        names, heard = trio.open_memory_channel[str](MAX_WAITING)
        token = trio.lowlevel.current_trio_token()

        def hear(name: str) -> None:
            try:
                token.run_sync_soon(self._hear, names, name)
            except trio.RunFinishedError:
                return

        try:
            zeroconf = await trio.to_thread.run_sync(Zeroconf, limiter=_threads)
        except OSError as exc:
            log.warning("no mDNS on this machine", reason=exc.strerror or str(exc))
            task_status.started()
            return
        try:
            await trio.to_thread.run_sync(self._open, zeroconf, hear, limiter=_threads)
            task_status.started()
            async for name in heard:
                info = await trio.to_thread.run_sync(_look, zeroconf, name, limiter=_threads)
                self._consider(None if info is None else target_of(info, self._network))
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await trio.to_thread.run_sync(
                    zeroconf.close,
                    limiter=_threads,
                    abandon_on_cancel=True,  # type: ignore[call-arg]  # stubs of an old trio
                )

    def _consider(self, target: PeerAddrs | None) -> None:
        if target is None or target.peer == self._peer:
            return
        if target.peer in self._peers or len(self._peers) < MAX_NAMES:  # a name may stand for another peer each time
            self._peers.add(target.peer)
            self._found(target)

    def _hear(self, names: trio.MemorySendChannel[str], name: str) -> None:
        if name == self._name or (name not in self._names and len(self._names) >= MAX_NAMES):
            return
        self._names.add(name)
        try:
            names.send_nowait(name)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._names.discard(name)  # it is said again

    def _open(self, zeroconf: Zeroconf, hear: Callable[[str], None]) -> None:
        """In a thread: be named, where there is an address to name, and begin to listen."""
        info = info_for(self._name, self._network, self._addrs())
        if info is not None:
            try:
                zeroconf.register_service(info)
            except (ZeroconfError, OSError) as exc:
                log.warning("not named on the LAN", reason=type(exc).__name__)
        ServiceBrowser(zeroconf, SERVICE, listener=_Listener(hear))


def _look(zeroconf: Zeroconf, name: str) -> ServiceInfo | None:
    try:
        return zeroconf.get_service_info(SERVICE, name, LOOK_MS)
    except (ZeroconfError, OSError):
        return None


def info_for(name: str, network: str, addrs: tuple[str, ...]) -> ServiceInfo | None:
    """What a LAN is told of us: addresses of a LAN, each ending in /p2p/PEER; None when there is none."""
    local = [addr for addr in addrs if is_local(addr.partition("/p2p/")[0])][:MAX_ADDRS]
    if not local:
        return None
    properties: dict[str | bytes, str | bytes | None] = {b"network": network.encode()}
    for number, addr in enumerate(local):
        properties[b"dnsaddr%d" % number] = addr.encode()
    hosts = [addr.split("/") for addr in local]
    return ServiceInfo(
        SERVICE,
        name,
        port=int(hosts[0][4]),
        properties=properties,
        server=f"{name.partition('.')[0]}.local.",
        addresses=[inet_pton(AF_INET if host[1] == "ip4" else AF_INET6, host[2]) for host in hosts],
    )


def target_of(info: ServiceInfo, network: str) -> PeerAddrs | None:
    """Whom a name stands for: a peer of our network with addresses of a LAN; None for everything else."""
    properties = info.properties or {}
    if properties.get(b"network") != network.encode():
        return None
    peers: set[PeerId] = set()
    bases: list[str] = []
    for key, value in list(properties.items())[: 2 * MAX_ADDRS]:
        if not key.startswith(b"dnsaddr") or value is None:
            continue
        base, _, text = value.decode(errors="replace").rpartition("/p2p/")
        try:
            peers.add(parse_peer(text))
        except MalformedMessage:
            return None
        bases += [addr for addr in usable_addrs((base,)) if is_local(addr)]
    if len(peers) != 1 or not bases:
        return None
    return PeerAddrs(peers.pop(), tuple(bases[:MAX_ADDRS]))
