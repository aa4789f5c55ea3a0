"""Doorkeeper: who may shake hands, how many at a time, and who leaves when the house is full.

A handshake costs us milliseconds and a stranger nothing, so everything here is decided by the address alone, before
the first byte is read. Rules for an address do not bind loopback and private ranges, unless ``strict_private``; rules
for all of them together bind everybody. Pure: time is ``now``; knows no socket and no peer id.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from p2p.admission import RateLimit

INBOUND_PER_SECOND, INBOUND_BURST = 10.0, 30.0
HANDSHAKES_EACH = 8  # under way at a time, from one address
HANDSHAKES = 128  # under way from all addresses; one that has none under way may still be one more
CONNECTIONS_EACH = 64  # from one address: a household or a cloud host, not a swarm
CONNECTIONS_SUBNET = 256  # from one /24 (/32 of IPv6)
CONNECTIONS = 900  # above it the newest of the most crowded subnet leaves for one of a less crowded one
BARRED, BARRED_MOST = 2.0, 300.0  # seconds that an address waits when a peer was graylisted there: doubled each time
FORGIVEN = 600.0  # seconds without another such peer after which it begins anew
BARRED_KEPT = 4096  # addresses

Evict = Callable[[], None]


def _staying() -> None:
    """Nobody has said yet how this visit is ended."""


@dataclass(slots=True, eq=False)
class Visit:
    """One inbound connection, from its first moment to ``Doorkeeper.left``."""

    address: bytes
    subnet: bytes
    bound: bool  # whether the rules for one address hold for it
    shaking: bool = True
    evict: Evict = field(default=_staying)


@dataclass(slots=True)
class _Bar:
    until: float
    length: float


class Doorkeeper:
    """Counts visits by address and subnet. What it counts is exactly what is between ``enter`` and ``left``."""

    def __init__(self, *, strict_private: bool = False) -> None:
        self.strict_private = strict_private
        self._rate = RateLimit(INBOUND_PER_SECOND, INBOUND_BURST)
        self._visits: dict[bytes, list[Visit]] = {}  # by subnet, in order of arrival
        self._inside: Counter[bytes] = Counter()
        self._shaking: Counter[bytes] = Counter()
        self._barred: OrderedDict[bytes, _Bar] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._visits.values()))

    def enter(self, ip: str, now: float) -> Visit | None:
        """A visit that may shake hands now, to be given back with ``left``; None for one that is turned away."""
        try:
            visit = self._visit(ip_address(ip))
        except ValueError:
            return None
        if visit.bound and not self._has_room(visit, now):
            return None
        under_way = self._shaking.total()
        if under_way >= 2 * HANDSHAKES or (under_way >= HANDSHAKES and self._shaking[visit.address]):
            return None
        if len(self) >= CONNECTIONS and not self._make_room(visit):
            return None
        self._visits.setdefault(visit.subnet, []).append(visit)
        self._inside[visit.address] += 1
        self._shaking[visit.address] += 1
        return visit

    def shaken(self, visit: Visit) -> None:
        """The handshake is over, well or not."""
        if visit.shaking:
            visit.shaking = False
            _less(self._shaking, visit.address)

    def left(self, visit: Visit) -> None:
        """The connection has ended. Said twice it counts once."""
        self.shaken(visit)
        crowd = self._visits.get(visit.subnet, [])
        if visit in crowd:
            crowd.remove(visit)
            _less(self._inside, visit.address)
        if not crowd:
            self._visits.pop(visit.subnet, None)

    def punish(self, ip: str, now: float) -> None:
        """Somebody at this address was graylisted. A key costs nothing, so its next one waits, longer each time.

        Whoever else is connected from there stays.
        """
        try:
            visit = self._visit(ip_address(ip))
        except ValueError:
            return
        if not visit.bound:
            return
        last = self._barred.pop(visit.address, None)
        if last is not None and now < last.until:
            self._barred[visit.address] = last  # one of those that were let in before
            return
        again = last is not None and now < last.until + FORGIVEN
        length = min(BARRED_MOST, 2 * last.length) if last is not None and again else BARRED
        self._barred[visit.address] = _Bar(now + length, length)
        if len(self._barred) > BARRED_KEPT:
            self._barred.popitem(last=False)

    def binds(self, ip: str) -> bool:
        """Whether the rules for one address hold for this one."""
        try:
            return self._visit(ip_address(ip)).bound
        except ValueError:
            return True

    def subnet(self, ip: str) -> bytes:
        """The /24 (/32 of IPv6) that an address is in."""
        return self._visit(ip_address(ip)).subnet

    def _visit(self, address: IPv4Address | IPv6Address) -> Visit:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        address = mapped or address
        whole = address.packed
        block, wide = (whole[:6], whole[:4]) if address.version == 6 else (whole, whole[:3])
        return Visit(block, wide, self.strict_private or address.is_global)

    def _has_room(self, visit: Visit, now: float) -> bool:
        return (
            not self._is_barred(visit.address, now)
            and self._shaking[visit.address] < HANDSHAKES_EACH
            and self._inside[visit.address] < CONNECTIONS_EACH
            and len(self._visits.get(visit.subnet, ())) < CONNECTIONS_SUBNET
            and self._rate.allow(visit.address, now)
        )

    def _is_barred(self, address: bytes, now: float) -> bool:
        bar = self._barred.get(address)
        return bar is not None and now < bar.until

    def _make_room(self, visit: Visit) -> bool:
        """End the newest visit of the most crowded subnet, if that is more crowded than the newcomer's will be."""
        crowd = max(self._visits.values(), key=len)
        if len(crowd) <= len(self._visits.get(visit.subnet, ())) + 1:
            return False
        leaving = crowd[-1]
        self.left(leaving)
        leaving.evict()
        return True


def _less(counter: Counter[bytes], key: bytes) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
