"""The real network: one hardened py-libp2p host, TCP + noise + yamux only.

    host = Host(identity, ("/ip4/0.0.0.0/tcp/4001",))
    await nursery.start(host.run)         # started means listening
    await host.connect(PeerAddrs(...))
    stream = await host.open(peer, "/pasar/job/1")

One connection per peer: the newest wins; of two that crossed, the one dialled by the lower peer id. Everything a peer
can make us hold is bounded here or in ``p2p/hardening``. What is wrong with a peer is Unavailable, what is wrong with
our own settings Misconfigured. Knows no message.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import structlog
import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2p import hardening
from p2p.addresses import MAX_ADDRS, listen_parts, reachable_addrs, usable_addrs
from p2p.admission import RateLimit
from p2p.connections import Connections
from p2p.doorkeeper import Doorkeeper
from p2p.errors import Misconfigured, PeerFault, Refused, Unavailable, Unspoken
from p2p.inbox import Inboxes
from p2p.limits import PortClaim, bound_recursion, give_memory_back
from p2p.netstream import HostStream, connection_ip, far_end, library_id, not_spoken, peer_id
from p2p.peer import PeerId, peer_of, peer_text
from p2p.pulse import PING
from p2p.scores import Fault, Scores
from p2p.transport import Acceptor, Link, PeerAddrs, PeerChange, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

DIAL_TIMEOUT = 10.0
OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
HANDSHAKE_TIMEOUT = 10.0
TIDY = 20.0
MAX_STREAMS = 64
LIBRARY_STREAMS = 32  # identify, gossip and the DHT come on top
MAX_CONNECTIONS = 1000
MAX_SPOKEN = 4096  # pairs of peer and protocol that a stream was opened for before
STREAMS_PER_SECOND, STREAMS_BURST = 50.0, 200.0
LIBRARY_DIALS_PER_SECOND, LIBRARY_DIALS_BURST = 1 / 30, 2.0  # of one peer

log = structlog.get_logger(__name__)


class Keyholder(Protocol):
    """Whoever has the node's key; see ``p2p.identity``."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def private_key(self) -> bytes: ...


class Host:
    """A Network on py-libp2p. At most ``MAX_STREAMS`` streams each way and one connection per peer."""

    def __init__(
        self,
        identity: Keyholder,
        listen: tuple[str, ...],
        *,
        announce: tuple[str, ...] = (),
        strict_private: bool = False,
    ) -> None:
        """Prepare without touching the network. Raises Misconfigured for an address that cannot be one.

        ``strict_private``: limits for one address hold for loopback and private ranges too.
        """
        hardening.install()
        bound_recursion()  # whatever was imported meanwhile
        self._peer = identity.peer
        self._listen = tuple(listen_parts(addr) for addr in listen)
        self._announce = tuple(Multiaddr(addr) for addr in usable_addrs(announce))
        if len(self._announce) != len(announce):
            raise Misconfigured("an announced address is /ip4/.../tcp/PORT or /dns4/.../tcp/PORT")
        self._proven: tuple[Multiaddr, ...] = ()
        self._also_bound = True
        self.scores = Scores()
        self._doorkeeper = Doorkeeper(strict_private=strict_private)
        self.library: Any = self._build(identity)  # the libp2p host, for gossip and discovery only
        self._swarm: Any = self.library.get_network()
        self._changes: Inboxes[PeerChange] = Inboxes()
        self._outbound: Counter[PeerId] = Counter()
        self._inbound: Counter[PeerId] = Counter()
        self._rate = RateLimit(STREAMS_PER_SECOND, STREAMS_BURST)
        self._library_dials = RateLimit(LIBRARY_DIALS_PER_SECOND, LIBRARY_DIALS_BURST)
        self._spoken: OrderedDict[tuple[PeerId, str], None] = OrderedDict()
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._connections = Connections(self._swarm, self._peer, self._changed, self.unwelcome)
        hardening.choose_by(self.library, self._connections.best)
        self._restrain()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled. Raises Misconfigured when a listen address cannot be had."""
        with ExitStack() as claims:
            for ip, port, _addr in self._listen:
                claims.callback(PortClaim(ip, port).release)
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                listening = await nursery.start(self._run_library, stop)
                try:
                    if listening:
                        task_status.started()
                        nursery.start_soon(self._tidy)
                        await self._connections.run()
                finally:
                    stop.set()
            raise Misconfigured(f"cannot listen on {', '.join(addr for _, _, addr in self._listen)}")

    async def _tidy(self) -> None:
        """Forget peers that are gone where the library does not, and give back the memory that they took."""
        while True:
            await trio.sleep(TIDY)
            hardening.forget_strangers(self.library)
            give_memory_back()

    async def _run_library(self, stop: trio.Event, *, task_status: TaskStatus[bool]) -> None:
        """Run the libp2p host until ``stop``, and close every socket then.

        Out of reach of our caller's cancellation: the library, cancelled, leaves its sockets to the garbage collector.
        """
        addrs = [Multiaddr(addr) for _ip, _port, addr in self._listen]
        with trio.CancelScope(shield=True) as scope:
            async with self.library.run(listen_addrs=addrs):
                task_status.started(len(self._swarm.listeners) == len(set(map(str, addrs))))
                await stop.wait()
                scope.deadline = trio.current_time() + CLOSE_TIMEOUT
                async with trio.open_nursery() as nursery:
                    for connection in self._swarm.get_connections():
                        nursery.start_soon(connection.close)
                await self.library.close()

    @property
    def peer(self) -> PeerId:
        return self._peer

    def addrs(self) -> tuple[str, ...]:
        """What the operator announces, else where we listen; what others are told may be less, see ``announce``."""
        return self._with_peer(self._announce) if self._announce else self.bound_addrs()

    def bound_addrs(self) -> tuple[str, ...]:
        """Where we listen, every interface spelled out."""
        return self._with_peer(reachable_addrs(self.library.get_transport_addrs()))

    def _with_peer(self, addrs: Iterable[Any]) -> tuple[str, ...]:
        return tuple(f"{addr}/p2p/{peer_text(self._peer)}" for addr in addrs)

    def ports(self) -> tuple[int, ...]:
        """The ports that we listen on, or that the operator says lead to us, each once."""
        said = self._announce or tuple(self.library.get_transport_addrs())
        return tuple(dict.fromkeys(int(str(addr).split("/")[4]) for addr in said))

    def announce(self, proven: tuple[str, ...], *, also_bound: bool) -> None:
        """Tell others these addresses, and what we listen on if ``also_bound``; the operator's go before both."""
        self._proven, self._also_bound = tuple(Multiaddr(addr) for addr in usable_addrs(proven)), also_bound

    def announces(self) -> bool:
        """Whether others are told any address of ours."""
        return bool(self.library.get_addrs())

    def _said_addrs(self, bound: Any) -> list[Any]:
        if self._announce:
            return list(self._announce)
        return list(dict.fromkeys((*self._proven, *(reachable_addrs(bound) if self._also_bound else ()))))

    def link(self, peer: PeerId) -> Link | None:
        return self._connections.link(peer)

    def connected(self) -> frozenset[PeerId]:
        return frozenset(peer_id(far) for far, conns in self._swarm.connections.items() if conns)

    def subscribe_peers(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerChange]]:
        return self._changes.subscribe("")

    async def connect(self, target: PeerAddrs) -> None:
        """Be connected with the peer, dialling its addresses in turn. Raises Unavailable within ten seconds."""
        if target.peer == self._peer:
            raise Unavailable("a node does not dial itself")
        if self.unwelcome(target.peer):
            raise Unavailable("this peer is shut out for now")
        addrs = usable_addrs(target.addrs)
        lock = self._dialling.setdefault(target.peer, trio.Lock())
        try:
            with trio.move_on_after(DIAL_TIMEOUT):
                async with lock:
                    if target.peer not in self.connected():
                        await self._dial(target.peer, addrs)
                return
        finally:
            if not lock.locked():
                self._dialling.pop(target.peer, None)
        raise Unavailable(f"{peer_text(target.peer)} did not answer in {DIAL_TIMEOUT:.0f} s")

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        """A stream over the existing connection. Raises Unavailable within ten seconds."""
        if peer not in self.connected():
            raise Unavailable("not connected")
        if self._outbound[peer] >= MAX_STREAMS + (protocol == PING):  # a full house must be able to ask who lives
            raise Unavailable(f"{MAX_STREAMS} streams are open with this peer")
        self._outbound[peer] += 1
        try:
            with far_end(f"open {protocol}"), trio.fail_after(OPEN_TIMEOUT):
                return await self._open(peer, protocol)
        except BaseException:
            self._release(self._outbound, peer)
            raise

    async def _open(self, peer: PeerId, protocol: str) -> HostStream:
        """The first stream of a protocol waits for the peer's consent; the next ones propose and go on."""

        def gone() -> None:
            self._release(self._outbound, peer)

        if (peer, protocol) not in self._spoken:
            try:
                stream = await self.library.new_stream(library_id(peer), [TProtocol(protocol)])
            except Exception as exc:
                if not_spoken(exc):
                    raise Unspoken(f"the peer does not speak {protocol}") from exc
                raise
            self._spoken[peer, protocol] = None
            if len(self._spoken) > MAX_SPOKEN:
                self._spoken.popitem(last=False)
            return HostStream(stream, gone)
        stream = await self._swarm.new_stream(library_id(peer))
        stream.set_protocol(TProtocol(protocol))

        def unspoken() -> None:
            self._spoken.pop((peer, protocol), None)

        return HostStream(stream, gone, proposed=protocol, unspoken=unspoken)

    def serve(self, protocol: str, acceptor: Acceptor) -> None:
        async def accept(stream: Any) -> None:
            await self._accept(acceptor, HostStream(stream, lambda: None), protocol)

        self.library.set_stream_handler(TProtocol(protocol), accept)

    def report(self, peer: PeerId, fault: Fault, what: str = "") -> None:
        """Write down what a peer did wrong. Once it is graylisted it is shut out, until time has healed that."""
        now = trio.current_time()
        before = self.scores.graylisted(peer, now)
        if peer == self._peer or self.scores.fault(peer, fault, now) > self.scores.graylist or before:
            return
        log.info("peer_shut_out", peer=peer_text(peer), last=what or fault.value, faults=self.scores.faults(peer))
        for connection in self._swarm.get_connections(library_id(peer)):
            address = connection_ip(connection.muxed_conn)
            if address is not None:
                self._doorkeeper.punish(address, now)
        self._connections.shut_out(peer)

    def subnet_of(self, peer: PeerId) -> bytes | None:
        """The subnet of a connected peer; where limits for one address do not bind, one of its own. None: not there."""
        for connection in self._swarm.get_connections(library_id(peer)):
            ip = connection_ip(connection.muxed_conn)
            if ip is not None:
                return self._doorkeeper.subnet(ip) if self._doorkeeper.binds(ip) else bytes(peer)
        return None

    def binds(self, ip: str) -> bool:
        """Whether limits for one address hold for ``ip``."""
        return self._doorkeeper.binds(ip)

    async def disconnect(self, peer: PeerId) -> None:
        # Not the library's close_peer: at its end it forgets every connection of the peer, a newer one too.
        with far_end("disconnect"), trio.move_on_after(DIAL_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for connection in self._swarm.get_connections(library_id(peer)):
                    nursery.start_soon(connection.close)

    def _build(self, identity: Keyholder) -> Any:
        keys = create_new_key_pair(identity.private_key)
        if peer_of(keys.public_key.to_bytes()) != identity.peer:
            raise ValueError("the private key belongs to another peer")
        noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
        return new_host(
            key_pair=keys,
            sec_opt={TProtocol(NOISE): noise},
            muxer_opt={TProtocol(YAMUX): Yamux},
            connection_config=ConnectionConfig(
                max_connections=MAX_CONNECTIONS,
                min_connections=0,
                low_watermark=MAX_CONNECTIONS,  # what its pruner, once it starts, prunes down to
                high_watermark=MAX_CONNECTIONS,
                inbound_upgrade_timeout=HANDSHAKE_TIMEOUT,
                max_connections_per_peer=2,  # for the moment between two that cross; see Connections
            ),
            addrs_factory=self._said_addrs,
            disable_identify_address_discovery=True,
        )

    def _restrain(self) -> None:
        """Put our rules before the library's: who may dial, be dialled, and open streams."""
        # Its resource manager opens a circuit breaker for a minute after five refusals; the limits here are enough.
        self._swarm.set_resource_manager(None)
        self._swarm.retry_config = RetryConfig(max_retries=0)
        self._swarm.dial_peer = self._dial_for_library
        self._swarm.auto_connector.maybe_connect = trio.lowlevel.checkpoint  # it dials whomever it has heard of
        inner = self._swarm.common_stream_handler

        async def limited(stream: Any) -> None:
            peer = peer_id(stream.muxed_conn.peer_id)
            if self.unwelcome(peer):
                await stream.reset()
                return
            too_many = self._inbound[peer] >= MAX_STREAMS + LIBRARY_STREAMS
            if too_many or not self._rate.allow(peer, trio.current_time()):
                self.report(peer, Fault.FLOOD, "streams")
                await stream.reset()
                return
            self._inbound[peer] += 1
            try:
                await inner(stream)
            finally:
                self._release(self._inbound, peer)

        self._swarm.set_stream_handler(limited)
        hardening.install_guard(self.library, self._on_fault, self._doorkeeper)

    async def _dial(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        hardening.evict_dial_cache(self.library, peer)
        far = library_id(peer)
        self.library.get_peerstore().add_addrs(far, [Multiaddr(addr) for addr in addrs], 3600)
        for addr in addrs:
            try:
                with far_end(f"dial {addr}"), trio.fail_after(DIAL_TIMEOUT / len(addrs)):
                    await self._swarm.dial_addr(Multiaddr(addr), far)
                return
            except Unavailable as exc:
                log.debug("dial_failed", peer=peer_text(peer), addr=addr, reason=str(exc))
        raise Unavailable(f"nobody is {peer_text(peer)} at any of {len(addrs)} addresses")

    async def _dial_for_library(self, identifier: Any) -> list[Any]:
        """What the DHT calls to reach a peer: our own dial, to every address instead of one.

        A look-up asks the dead again and again as long as a table names them; one try in half a minute is enough.
        """
        now = trio.current_time()
        if not self._library_dials.allow(peer_id(identifier), now):
            raise Unavailable("dialled in vain a moment ago")
        with far_end("addresses"):
            known = self.library.get_peerstore().addrs(identifier)
        bare = (str(addr).partition("/p2p/")[0] for addr in known[: 2 * MAX_ADDRS])
        await self.connect(PeerAddrs(peer_id(identifier), tuple(bare)))
        connections: list[Any] = self._swarm.get_connections(identifier)
        return connections

    async def _accept(self, acceptor: Acceptor, stream: HostStream, protocol: str) -> None:
        try:
            await acceptor(stream)
            await stream.aclose()
        except PeerFault as exc:
            log.info("stream_fault", peer=peer_text(stream.peer), protocol=protocol, code=exc.code)
            self.report(stream.peer, Fault.PROTOCOL)
            await stream.reset()
        except (Unavailable, Refused) as exc:
            log.debug("stream_ended", peer=peer_text(stream.peer), protocol=protocol, reason=str(exc))
            await stream.reset()
        except Exception:  # a bug of ours in one stream must not end the node; it is logged whole
            log.exception("acceptor_failed", protocol=protocol)
            await stream.reset()

    def _on_fault(self, peer: PeerId, protocol: str, error: Exception) -> None:
        """An exception out of the library's own handlers: bytes that it could not read."""
        log.debug("library_stream_failed", peer=peer_text(peer), protocol=protocol, error=type(error).__name__)
        self.report(peer, Fault.PROTOCOL)

    def unwelcome(self, peer: PeerId) -> bool:
        """Whether a peer is graylisted now."""
        return self.scores.graylisted(peer, trio.current_time())

    def _changed(self, change: PeerChange) -> None:
        self._changes.deliver("", change)

    def _release(self, counter: Counter[PeerId], peer: PeerId) -> None:
        counter[peer] -= 1
        if counter[peer] <= 0:
            del counter[peer]
