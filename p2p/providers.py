"""ProviderShelf: who says to provide a key, kept for others and bounded towards everyone who writes here.

A provider key is public and a peer id costs nothing. So a peer has few keys here, an address few providers of one key,
and where all is taken the most crowded address makes room, and of the keys the one farthest from our own id, which
others keep. Pure: time is ``now``; knows no stream, and no meaning of a key.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256

from p2p.peer import PeerId

LIFE = 3600.0  # seconds; whoever is there says so every ten minutes
MAX_KEYS = 8192
KEYS_EACH = 32  # of one provider: its kinds, twice near midnight, and room
PROVIDERS_EACH = 64  # of one key
SHARING = 8  # of them, at one address


@dataclass(frozen=True, slots=True)
class Provided:
    """One record. ``address`` is where its writer was connected from; None where that is bound by nothing."""

    provider: PeerId
    addrs: tuple[str, ...]
    address: bytes | None
    at: float


def distance(one: bytes, other: bytes) -> int:
    """Kademlia's: the XOR of the SHA-256 of both, as a number."""
    return int.from_bytes(sha256(one).digest(), "big") ^ int.from_bytes(sha256(other).digest(), "big")


class ProviderShelf:
    """At most ``most_keys`` keys, ``PROVIDERS_EACH`` records of each, ``KEYS_EACH`` of each provider."""

    def __init__(self, own: PeerId, most_keys: int = MAX_KEYS) -> None:
        self._own, self._most = own, most_keys
        self._keys: dict[bytes, dict[PeerId, Provided]] = {}
        self._written: Counter[PeerId] = Counter()
        self._farthest: tuple[int, bytes] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def put(self, key: bytes, record: Provided) -> bool:
        """Keep a record; whether there was room for it. A provider's newer record takes the place of its older."""
        there = self._keys.get(key, {})
        if record.provider in there:
            there[record.provider] = record
            return True
        if self._written[record.provider] >= KEYS_EACH and record.provider != self._own:
            return False
        if not self._fits_among(there, record) or (key not in self._keys and not self._room_for(key)):
            return False
        self._keys.setdefault(key, {})[record.provider] = record
        self._written[record.provider] += 1
        return True

    def get(self, key: bytes, now: float) -> list[Provided]:
        """The records of a key that are not past their time."""
        return [record for record in self._keys.get(key, {}).values() if now - record.at < LIFE]

    def expire(self, now: float) -> None:
        """Drop what is past its time."""
        for key in tuple(self._keys):
            for provider, record in tuple(self._keys[key].items()):
                if now - record.at >= LIFE:
                    self._drop(key, provider)

    def _fits_among(self, there: dict[PeerId, Provided], record: Provided) -> bool:
        """Whether the key has a place; the newest record of its most crowded address makes one when it must."""
        crowds = Counter(known.address for known in there.values() if known.address is not None)
        own_crowd = crowds[record.address] if record.address is not None else 0
        if own_crowd >= SHARING:
            return False
        if len(there) < PROVIDERS_EACH:
            return True
        address, most = max(crowds.items(), key=lambda crowd: crowd[1], default=(None, 0))
        if most <= own_crowd + 1:
            return False
        newest = max((known for known in there.values() if known.address == address), key=lambda known: known.at)
        del there[newest.provider]
        self._forget(newest.provider)
        return True

    def _room_for(self, key: bytes) -> bool:
        """Whether one more key fits; the one farthest from us makes room for one that is nearer."""
        if len(self._keys) < self._most:
            return True
        if self._farthest is None or self._farthest[1] not in self._keys:
            self._farthest = max((distance(self._own, known), known) for known in self._keys)
        if distance(self._own, key) >= self._farthest[0]:
            return False
        for provider in tuple(self._keys[self._farthest[1]]):
            self._drop(self._farthest[1], provider)
        return True

    def _drop(self, key: bytes, provider: PeerId) -> None:
        del self._keys[key][provider]
        self._forget(provider)
        if not self._keys[key]:
            del self._keys[key]

    def _forget(self, provider: PeerId) -> None:
        self._written[provider] -= 1
        if self._written[provider] <= 0:
            del self._written[provider]
