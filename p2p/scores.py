"""How each peer behaved towards this node: a score that decays to zero, and the graylist below a threshold.

Pure: time is ``now``. What counts here is wrong in the bytes alone, breaks a limit, or breaks a word that was given:
whether somebody delivers what it sold is the market's own measure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from p2p.peer import PeerId

HALF_LIFE = 600.0
GRAYLIST = -100.0
MAX_PEERS = 4096


class Fault(StrEnum):
    """Kinds of fault; each has its cost in ``COST``."""

    MALFORMED = "malformed"  # bytes that are no message
    BAD_SIGNATURE = "bad_signature"
    REJECTED = "rejected"  # a gossiped message that the topic's judge rejected
    FLOOD = "flood"  # past a rate or a count limit
    PROTOCOL = "protocol"  # broke the rules of a stream in another way
    REFUSED_FIRM = "refused_firm"  # a seller that took its own held quote back
    UNCLAIMED = "unclaimed"  # a buyer that had a place held, and neither took it nor let it go
    EQUIVOCATED = "equivocated"  # signed two different offers under one serial: the one fault that is its own proof


COST: dict[Fault, float] = {
    Fault.MALFORMED: 20.0,
    Fault.BAD_SIGNATURE: 40.0,
    Fault.REJECTED: 10.0,
    Fault.FLOOD: 2.0,
    Fault.PROTOCOL: 10.0,
    Fault.REFUSED_FIRM: 5.0,
    Fault.UNCLAIMED: 2.0,
    Fault.EQUIVOCATED: 200.0,
}


@dataclass(slots=True)
class _Record:
    value: float
    at: float
    faults: tuple[tuple[Fault, int], ...] = ()  # few of few kinds: thousands of strangers have one


def _counted(faults: tuple[tuple[Fault, int], ...], kind: Fault) -> tuple[tuple[Fault, int], ...]:
    """One more of a kind."""
    counts = dict(faults)
    counts[kind] = counts.get(kind, 0) + 1
    return tuple(counts.items())


class Scores:
    """A score is never above zero, moves towards zero by half each ``half_life``, and at most ``most`` are kept.

    When full, the peer whose last fault is oldest is forgotten.
    """

    def __init__(self, *, half_life: float = HALF_LIFE, graylist: float = GRAYLIST, most: int = MAX_PEERS) -> None:
        self.half_life, self.graylist, self.most = half_life, graylist, most
        self._records: OrderedDict[PeerId, _Record] = OrderedDict()

    def fault(self, peer: PeerId, kind: Fault, now: float) -> float:
        """Write down a fault; the score after it."""
        record = self._records.pop(peer, None) or _Record(0.0, now)
        record.value = self._decayed(record, now) - COST[kind]
        record.at = max(now, record.at)
        record.faults = _counted(record.faults, kind)
        self._records[peer] = record
        if len(self._records) > self.most:
            self._records.popitem(last=False)
        return record.value

    def score(self, peer: PeerId, now: float) -> float:
        record = self._records.get(peer)
        return 0.0 if record is None else self._decayed(record, now)

    def graylisted(self, peer: PeerId, now: float) -> bool:
        """Whether streams and gossip of ``peer`` are refused for now."""
        return self.score(peer, now) <= self.graylist

    def faults(self, peer: PeerId) -> dict[Fault, int]:
        """How often each kind was seen since the peer was last forgotten."""
        record = self._records.get(peer)
        return {} if record is None else dict(record.faults)

    def __len__(self) -> int:
        return len(self._records)

    def _decayed(self, record: _Record, now: float) -> float:
        age = max(0.0, now - record.at)
        return float(record.value * 0.5 ** (age / self.half_life))
