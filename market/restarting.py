"""Restarting: the supervisor's rule. When a node is started, killed, started again, and when it is left alone.

                  first beat                 silent too long, or ordered and too slow
    STARTING ------------------> RUNNING -------------------------------------------> DYING
       ^  |                         |                                                   |
       |  +---------- died ---------+------------------------ died ---------------------+
       |                            v
       +------ pause over ------ WAITING            OVER: ended on order, by a mistake, or given up

Invariant: at most one node at a time, none after OVER. Events in, commands out; time is ``now`` in seconds on a steady
clock. A supervisor that slept itself (the whole group was stopped) blames nobody for the silence. Pure; knows no
process, no signal and no socket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

MISTAKE = 2  # the exit code of a node that was told something impossible, and has said so
KILLED = 128  # a death by signal n is the exit code 128 + n, as shells have it


@dataclass(frozen=True, slots=True)
class Rule:
    """All in seconds, but ``tries``: how often a node that was never ready is started before it is given up."""

    start_s: float = 120.0  # until the first beat; a busy machine imports slowly
    silence_s: float = 20.0  # without a beat, the loop of the node is stuck
    mercy_s: float = 2.0  # between the request to die, which leaves a trace of where it hung, and SIGKILL
    drain_s: float = 75.0  # a node drains for 60
    hurry_s: float = 10.0  # after the second order
    steady_s: float = 30.0  # a node that was ready for so long starts with a clean record
    gap_s: float = 5.0  # between two looks of ours; beyond it, it was us who slept
    pauses_s: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
    tries: int = 5


class State(StrEnum):
    """Where the node stands, as its supervisor sees it."""

    STARTING = "starting"
    RUNNING = "running"
    DYING = "dying"
    WAITING = "waiting"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Beaten:
    """The node's loop turned."""


@dataclass(frozen=True, slots=True)
class Readied:
    """The node serves."""


@dataclass(frozen=True, slots=True)
class Hopeless:
    """The node says that a restart would make nothing better."""


@dataclass(frozen=True, slots=True)
class Died:
    """The node ended: its exit code, or minus the number of the signal that killed it."""

    code: int


@dataclass(frozen=True, slots=True)
class Ordered:
    """Somebody wants all of it to stop."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


Event = Beaten | Readied | Hopeless | Died | Ordered | Ticked


@dataclass(frozen=True, slots=True)
class Start:
    """Start a node now."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell the node to stop; by a signal when it does not listen yet."""

    listens: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """Have the node die and say where it was."""

    why: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End the node whatever it does."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """A node died and another follows after a pause."""

    how: str
    pause_s: float


@dataclass(frozen=True, slots=True)
class End:
    """It is over, with this exit code; ``why`` is for a person, empty where the node has said it."""

    code: int
    why: str = ""


Command = Start | Stop | Abort | Kill | Wait | End


def how(code: int) -> str:
    """A death in words."""
    return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"


class Restarting:
    """One node after another. Hand every event in as it comes, and Ticked at ``wake_at`` at the latest."""

    def __init__(self, rule: Rule, now: float) -> None:
        self.state = State.WAITING
        self.was_ready = False  # ever: READY is said once
        self.orders = 0
        self._rule, self._seen = rule, now
        self._due = now  # when the state has lasted too long
        self._stop_due = math.inf
        self._ready_at: float | None = None  # of the present node
        self._deaths = 0  # in a row
        self._hopeless = False

    @property
    def wake_at(self) -> float:
        """When Ticked changes something."""
        return min(self._due, self._stop_due)

    @property
    def in_hand(self) -> bool:
        """Whether there is no running node to wait for a beat of: what goes on is up to us."""
        return self.state in (State.STARTING, State.DYING, State.WAITING)

    def handle(self, event: Event, now: float) -> list[Command]:
        """What is to be done about it, in this order."""
        self._catch_up(now)
        if self.state is State.OVER:
            return []
        match event:
            case Beaten():
                self._beat(now)
            case Readied():
                self._beat(now)
                self.was_ready = True
                self._ready_at = now
            case Hopeless():
                self._hopeless = True
            case Died(code=code):
                return self._died(code, now)
            case Ordered():
                return self._order(now)
        return self._tick(now)

    def _catch_up(self, now: float) -> None:
        """Time in which we did not look is nobody's silence."""
        gap = now - self._seen
        if gap > self._rule.gap_s:
            self._due += gap
            self._stop_due += gap
        self._seen = now

    def _beat(self, now: float) -> None:
        if self.state is State.STARTING:
            self.state = State.RUNNING
        if self.state is State.RUNNING:
            self._due = now + self._rule.silence_s

    def _tick(self, now: float) -> list[Command]:
        if self._stop_due <= now:
            self._stop_due = now + self._rule.hurry_s
            self.state, self._due = State.DYING, math.inf
            return [Kill("it does not stop")]
        if self._due > now:
            return []
        match self.state:
            case State.WAITING:
                self.state, self._due = State.STARTING, now + self._rule.start_s
                self._ready_at, self._hopeless = None, False
                return [Start()]
            case State.DYING:
                self._due = math.inf  # nothing survives it
                return [Kill("its loop is stuck")]
            case State.STARTING | State.RUNNING:
                limit = self._rule.start_s if self.state is State.STARTING else self._rule.silence_s
                self.state, self._due = State.DYING, now + self._rule.mercy_s
                return [Abort(f"no sign of life for {limit:.0f} s")]
        return []

    def _order(self, now: float) -> list[Command]:
        self.orders += 1
        if self.state is State.WAITING:
            return self._end(0)
        self._stop_due = min(self._stop_due, now + (self._rule.drain_s if self.orders == 1 else self._rule.hurry_s))
        if self.state is State.DYING:
            return []
        return [Stop(listens=self.state is State.RUNNING)]

    def _died(self, code: int, now: float) -> list[Command]:
        if self.state is State.WAITING:
            return []  # it was dead before
        exit_code = code if code >= 0 else KILLED - code
        if self.orders or self._hopeless or code in (0, MISTAKE):
            return self._end(exit_code)
        if self._ready_at is not None and now - self._ready_at >= self._rule.steady_s:
            self._deaths = 0
        self._deaths += 1
        if not self.was_ready and self._deaths >= self._rule.tries:
            return self._end(exit_code, f"the node {how(code)}; given up after {self._deaths} tries, never ready")
        pause = self._rule.pauses_s[min(self._deaths, len(self._rule.pauses_s)) - 1]
        self.state, self._due = State.WAITING, now + pause
        return [Wait(how(code), pause), *self._tick(now)]

    def _end(self, code: int, why: str = "") -> list[Command]:
        self.state, self._due, self._stop_due = State.OVER, math.inf, math.inf
        return [End(code, why)]
