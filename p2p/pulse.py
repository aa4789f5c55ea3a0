"""Pulse: whether the far end of one connection still lives; and whether this machine slept.

    the side that dialled asks every 15 s        the side that was dialled asks when nobody asked it for 20 s
    no answer within 10 s is a miss              the second miss in a row closes the connection

So a peer that is stopped, or whose wire is cut, is gone within 45 s on both ends, and a NAT between them sees bytes
from its inside every 15 s. A silence during which we ourselves did not look is ours: it asks again instead of counting.
Pure: time is ``now``; knows neither stream nor network.
"""

from __future__ import annotations

from enum import Enum, auto

PING = "/pasar/ping/1"
BEAT = 15.0
UNASKED = 20.0
PATIENCE = 10.0
MISSES = 2
HASTE = 5.0  # patience, and with one miss, after a sleep: every connection counts as dead until it answers
STALL = 5.0  # between two looks; after a longer pause it was we who were not there
DRIFT = 10.0  # between calendar and running clock; a running clock stands still while a laptop sleeps


class Step(Enum):
    """What is to be done now."""

    WAIT = auto()
    ASK = auto()
    CLOSE = auto()


class Pulse:
    """Closes only after a question was asked, waited for while we looked, and not answered."""

    def __init__(self, now: float, *, dialled: bool, chance: float = 0.0) -> None:
        """``dialled``: by us. ``chance`` in [0, 1) spreads the first questions of many connections over a beat."""
        self.dialled = dialled
        self._ask_at = now + (BEAT * (1.0 - chance) if dialled else UNASKED)
        self._until: float | None = None  # of the question that is open
        self._missed = 0
        self._hasty = False
        self._looked = now

    @property
    def waits(self) -> bool:
        """Whether a question is open."""
        return self._until is not None

    @property
    def patience(self) -> float:
        """How long the question that is asked now is waited for."""
        return HASTE if self._hasty else PATIENCE

    def look(self, now: float) -> Step:
        """To be called every second or so; after ASK the question is on its way."""
        late, self._looked = now - self._looked > STALL, now
        if late:
            self.suspect(now)
        if self._until is not None:
            if now < self._until:
                return Step.WAIT
            self._until = None
            self._missed += 1
            if self._missed >= (1 if self._hasty else MISSES):
                return Step.CLOSE
            self._ask_at = now
        if now < self._ask_at:
            return Step.WAIT
        self._until = now + self.patience
        return Step.ASK

    def answered(self, now: float) -> None:
        """The open question was answered."""
        self._until, self._missed, self._hasty = None, 0, False
        self._ask_at = now + (BEAT if self.dialled else UNASKED)

    def heard(self, now: float) -> None:
        """The far end asked us: who was dialled need not ask by itself for now."""
        if not self.dialled and self._until is None:
            self._ask_at = now + UNASKED

    def suspect(self, now: float) -> None:
        """We slept, or moved: ask at once, and believe no silence for long. An open question is asked again."""
        self._until, self._missed, self._hasty, self._ask_at = None, 0, True, now


class Clocks:
    """Tells a sleep of this machine from the two clocks: the calendar went on, the running clock did not."""

    def __init__(self, now: float, wall: float) -> None:
        self._offset = wall - now

    def jumped(self, now: float, wall: float) -> bool:
        """Whether the calendar has moved against the running clock since the last look."""
        before, self._offset = self._offset, wall - now
        return abs(self._offset - before) > DRIFT
