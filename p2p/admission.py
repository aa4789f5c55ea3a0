"""What is let in: token buckets by key, and the gate in front of every gossiped message.

Pure: time is ``now``. Knows bytes and who passed them on, not what they mean; the topic's own judge decides that, and
``judged`` turns what it raises into a verdict: unknown versions are ignored, wrong bytes cost the forwarder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from hashlib import blake2b

from p2p.errors import PeerFault, UnknownMessage
from p2p.peer import PeerId
from p2p.transport import Judge, Verdict

MAX_GOSSIP = 4 * 1024
REPEAT_WINDOW = 120.0  # seconds; the library's own memory of message ids is as long
MAX_REMEMBERED = 16_384
MAX_KEYS = 4096


class RateLimit:
    """At most ``burst`` at once and ``per_second`` in the long run for each key; at most ``most_keys`` are kept.

    A key whose bucket has filled up again is forgotten, the one untouched for longest first.
    """

    def __init__(self, per_second: float, burst: float, most_keys: int = MAX_KEYS) -> None:
        if per_second <= 0 or burst < 1 or most_keys < 1:
            raise ValueError("a rate limit lets something through")
        self.per_second, self.burst, self.most_keys = per_second, burst, most_keys
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def allow(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """Whether ``key`` may do one more thing at ``now``; a refusal costs it nothing."""
        tokens, then = self._buckets.pop(key, (self.burst, now))
        tokens = min(self.burst, tokens + max(0.0, now - then) * self.per_second)
        allowed = tokens >= cost
        self._buckets[key] = (tokens - cost if allowed else tokens, max(now, then))
        self._forget(now)
        return allowed

    def _forget(self, now: float) -> None:
        """The oldest two at most, so that every call costs the same."""
        if len(self._buckets) > self.most_keys:
            self._buckets.popitem(last=False)
        for _ in range(2):
            oldest = next(iter(self._buckets))
            tokens, then = self._buckets[oldest]
            if len(self._buckets) == 1 or tokens + max(0.0, now - then) * self.per_second < self.burst:
                return
            del self._buckets[oldest]

    def __len__(self) -> int:
        return len(self._buckets)


class GossipGate:
    """Each content passes once per ``window``; each forwarder within its budget; nothing above ``limit`` bytes."""

    def __init__(
        self,
        *,
        limit: int = MAX_GOSSIP,
        window: float = REPEAT_WINDOW,
        per_second: float = 10.0,
        burst: float = 100.0,
        most_remembered: int = MAX_REMEMBERED,
    ) -> None:
        self.limit, self.window, self.most_remembered = limit, window, most_remembered
        self._rate = RateLimit(per_second, burst)
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def admit(self, forwarder: PeerId, topic: str, data: bytes, now: float) -> Verdict:
        """ACCEPT when the topic's judge should look at it. A message over the rate is not remembered as seen."""
        if not 1 <= len(data) <= self.limit:
            return Verdict.REJECT
        if not self._rate.allow(forwarder, now):
            return Verdict.IGNORE
        return Verdict.IGNORE if self._repeated(topic, data, now) else Verdict.ACCEPT

    def _repeated(self, topic: str, data: bytes, now: float) -> bool:
        while self._seen:
            oldest, at = next(iter(self._seen.items()))
            if now - at < self.window and len(self._seen) < self.most_remembered:
                break
            del self._seen[oldest]
        name = blake2b(topic.encode() + b"\0" + data, digest_size=16).digest()
        if name in self._seen:
            return True
        self._seen[name] = now
        return False


def judged(judge: Judge, forwarder: PeerId, data: bytes) -> Verdict:
    """The topic's verdict, with what it raises on purpose read as one."""
    try:
        return judge(forwarder, data)
    except UnknownMessage:
        return Verdict.IGNORE
    except PeerFault:
        return Verdict.REJECT
