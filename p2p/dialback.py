"""Dial-back: asks peers to dial us, and does them the same favour; what they found decides what we announce.

    dialback = DialBack(network, ports=host.ports, changed=...)
    await nursery.start(dialback.run)

A peer is dialled at the address that its own connection comes from and nowhere else, by a handshake of its own
(``p2p/knock.py``), once a minute: nobody can make us dial a third party. Who asks believes no single answer; see
``p2p/standing.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from random import random
from typing import TYPE_CHECKING, Annotated

import structlog
import trio

from p2p.admission import RateLimit
from p2p.codec import Range, Size, message
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.peer import PeerId, peer_text
from p2p.standing import Reach, Standing
from p2p.stream import MessageStream
from p2p.transport import Network, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

DIALBACK = "/pasar/dialback/1"
FRAME = 256
MAX_PORTS = 4
ANSWER_TIMEOUT = 25.0  # four ports of five seconds, and the way
ASK_TIMEOUT = 10.0
PER_PEER = 1 / 60  # a second
PER_ADDRESS, ADDRESS_BURST = 1 / 10, 4.0  # a second, of one /24 or /48
IN_ALL, IN_ALL_BURST = 1.0, 8.0
AT_ONCE = 4
ASKED = 3
AGAIN, SOON = 600.0, 20.0
DECLINED = 60.0  # before a peer that declined is asked again

log = structlog.get_logger(__name__)

Port = Annotated[int, Range(1, 65_535)]
Knock = Callable[[PeerId, str, int], Awaitable[bool]]


@message("dial-me", 1)
@dataclass(frozen=True, slots=True)
class DialMe:
    """Please dial me, at the address that this connection comes from, on these ports."""

    ports: Annotated[tuple[Port, ...], Size(1, MAX_PORTS)]


@message("dialled", 1)
@dataclass(frozen=True, slots=True)
class Dialled:
    """The address as I see it, and the ports on which you answered me."""

    ip: Annotated[str, Size(2, 45)]
    ports: Annotated[tuple[Port, ...], Size(0, MAX_PORTS)]


class DialBack:
    """``reach`` is what is known of our own ports; ``changed`` is called whenever that, or where, has changed."""

    def __init__(
        self,
        network: Network,
        *,
        ports: Callable[[], tuple[int, ...]],
        knock: Knock,
        changed: Callable[[Reach, tuple[str, ...]], None],
        chance: Callable[[], float] = random,
    ) -> None:
        self._network, self._ports, self._knock, self._changed, self._chance = network, ports, knock, changed, chance
        self._standing = Standing()
        self._said: tuple[Reach, tuple[str, ...]] = (Reach.UNKNOWN, ())
        self._each = RateLimit(PER_PEER, 1.0)
        self._from = RateLimit(PER_ADDRESS, ADDRESS_BURST)
        self._all = RateLimit(IN_ALL, IN_ALL_BURST)
        self._dialling = 0
        self._asked: dict[PeerId, float] = {}
        self._known = trio.Event()
        self._again = trio.Event()

    @property
    def reach(self) -> Reach:
        return self._standing.reach(trio.current_time())

    async def known(self) -> Reach:
        """Wait until somebody has answered, or all who were asked have declined; what is known then."""
        await self._known.wait()
        return self.reach

    def ask_again(self) -> None:
        """Our addresses changed: forget what was known, and ask."""
        self._standing.reset()
        self._asked.clear()
        self._tell()
        self._again.set()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve those who ask, and ask three peers now and then, until cancelled."""
        self._network.serve(DIALBACK, self._serve)
        async with self._network.subscribe_peers() as changes, trio.open_nursery() as nursery:

            async def hear() -> None:
                async for change in changes:
                    if change.connected and self._lacking():
                        self._again.set()

            nursery.start_soon(hear)
            task_status.started()
            while True:
                self._again = trio.Event()
                await self._ask_some()
                with trio.move_on_after(SOON if self._lacking() else AGAIN):
                    await self._again.wait()

    def _lacking(self) -> bool:
        """Whether fewer peers have been asked of late than we would believe."""
        return len(self._asked_of_late()) < ASKED

    def _asked_of_late(self) -> set[PeerId]:
        now = trio.current_time()
        self._asked = {peer: at for peer, at in self._asked.items() if now - at < AGAIN}
        return set(self._asked)

    async def _ask_some(self) -> None:
        """Ask whom we dialled first: nobody chose them for us by dialling in."""
        if not self._ports():
            return
        asked = self._asked_of_late()
        open_to = [(peer, self._network.link(peer)) for peer in self._network.connected() if peer not in asked]
        ranked = sorted((not link.dialled, self._chance(), peer) for peer, link in open_to if link is not None)
        async with trio.open_nursery() as nursery:
            for _, _, peer in ranked[: max(0, ASKED - len(asked))]:
                self._asked[peer] = trio.current_time()
                nursery.start_soon(self._ask, peer)
        if self._asked:
            self._known.set()

    async def _ask(self, peer: PeerId) -> None:
        ports = self._ports()[:MAX_PORTS]
        try:
            async with MessageStream(await self._network.open(peer, DIALBACK), FRAME) as stream:
                await stream.send(DialMe(ports))
                said = await stream.receive(timeout=ANSWER_TIMEOUT)
        except (Unavailable, PeerFault) as exc:
            log.debug("not dialled back", peer=peer_text(peer), reason=str(exc))
            self._asked[peer] = trio.current_time() - AGAIN + DECLINED
            return
        if not isinstance(said, Dialled) or not set(said.ports) <= set(ports):
            return
        try:
            version = ip_address(said.ip).version
        except ValueError:
            return
        addrs = tuple(f"/ip{version}/{said.ip}/tcp/{port}" for port in said.ports)
        self._standing.vote(peer, addrs, trio.current_time())
        self._tell()
        self._known.set()

    def _tell(self) -> None:
        now = trio.current_time()
        said = (self._standing.reach(now), self._standing.addrs(now))
        if said != self._said:
            self._said = said
            log.info("our reach", reach=said[0].value, addrs=list(said[1]))
            self._changed(*said)

    async def _serve(self, raw: Stream) -> None:
        stream = MessageStream(raw, FRAME)
        ask = await stream.receive(timeout=ASK_TIMEOUT)
        if ask is None:
            return
        if not isinstance(ask, DialMe):
            raise PeerFault(f"{type(ask).__name__} where a request to be dialled belongs")
        ip = None if raw.remote.relayed else raw.remote.ip
        if ip is None or not self._admits(raw.peer, ip):
            raise Refused("TOO_MANY", "dialled back once a minute, and only where the connection comes from")
        self._dialling += 1
        try:
            answered = [port for port in dict.fromkeys(ask.ports) if await self._knock(raw.peer, ip, port)]
        finally:
            self._dialling -= 1
        await stream.send(Dialled(ip, tuple(answered)))
        await stream.finish()

    def _admits(self, peer: PeerId, ip: str) -> bool:
        address, now = ip_address(ip), trio.current_time()
        block = address.packed[: 6 if address.version == 6 else 3]
        if self._dialling >= AT_ONCE or not self._each.allow(peer, now):
            return False
        here = not address.is_global  # a whole market may be on one machine, and dials nobody else's
        return (here or self._from.allow(block, now)) and self._all.allow("", now)
