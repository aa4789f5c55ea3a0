"""The shelf: which models are loaded on one device, decided from events, under one budget of memory.

    COLD     not loaded; may be asked for
    LOADING  being loaded; at most one model is
    WARM     loaded. ``pinned`` models stay for ever, the others until their room is needed, the longest unused first
    BROKEN   could not be loaded; asked for again it is refused until it is mended

A model with a running job is never evicted, nor one that was loaded for a job that it has not begun. One that is busy
without a pause makes way only after it was warm for STAY times what the other takes to load, so that two models that do
not fit together spend most of the time at work: until then the other waits, from then on no new job of the busy one
begins.

Pure: time is ``now`` in milliseconds, sizes are bytes as measured by whoever loads. Knows no device and no library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from p2p.errors import Refused

STAY = 4  # a model in use stays so many loading times of the one that waits for its room
LEAST_STAY_MS = 2_000
MEND_MS = 60_000  # a model that failed for want of memory may be tried again then
GUESSED_LOAD_MS = 15_000
NO_ROOM = "no-room"  # beside the places: cold, and the pinned models leave too little for it


class Place(StrEnum):
    """Where a model is."""

    COLD = "cold"
    LOADING = "loading"
    WARM = "warm"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model, then say ``loaded`` or ``failed``."""

    model: bytes


@dataclass(frozen=True, slots=True)
class Evict:
    """Put this model out, before anything that follows."""

    model: bytes


@dataclass(frozen=True, slots=True)
class Decline:
    """These jobs will not have their model: tell them why."""

    jobs: tuple[bytes, ...]
    code: str
    hint: str
    have: int = 0
    need: int = 0


Command = Load | Evict | Decline


@dataclass(slots=True)
class Shelved:
    """One model. ``cost`` is a guess until the first load measured it; ``waiting`` are jobs by arrival."""

    model: bytes
    cost: int
    pinned: bool = False
    eager: bool = False
    place: Place = Place.COLD
    load_ms: int = 0
    since: int = 0  # when it took its place
    used_at: int = 0  # grows with each use
    users: set[bytes] = field(default_factory=set)
    waiting: dict[bytes, int] = field(default_factory=dict)
    held: bool = False  # no new job begins: another has waited long enough for its room
    settled: bool = False  # it was found to fit after it was measured
    served: bool = False  # it has begun a job since it was loaded
    mends: bool = False
    hint: str = ""

    @property
    def is_loaded(self) -> bool:
        """Whether it takes room, now or in a moment."""
        return self.place in (Place.WARM, Place.LOADING)

    @property
    def asked_at(self) -> int:
        """When the job came that waits longest; for a pinned model without one, when it was pinned."""
        return min(self.waiting.values(), default=self.since)


class Shelf:
    """Invariant, whenever nothing loads: what is loaded fits the budget, or is one model. ``budget`` 0 is no bound."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._models: dict[bytes, Shelved] = {}
        self._uses = 0

    # -- what happens --------------------------------------------------------------------------------------------------

    def add(self, model: bytes, cost: int, *, pinned: bool = False, eager: bool = True) -> None:
        """A model that may be asked for. An eager one is loaded when there is room for it and nothing else to do."""
        self._models[model] = Shelved(model, max(1, cost), pinned, eager)

    def pin(self, model: bytes, pinned: bool, now: int) -> None:
        """Load it and keep it, or no longer. Raises Refused when it is not here, or would not fit beside the pinned."""
        one = self._models.get(model)
        if one is None:
            raise Refused("NO_MODEL", "not a model of this worker")
        if pinned:
            self._check_room(one)
        if one.place is Place.COLD:
            one.since = now
        one.pinned = pinned

    def want(self, model: bytes, job: bytes, now: int) -> None:
        """A job waits for its model. Raises Refused for one that is not here, broken, or never to have room."""
        one = self._models.get(model)
        if one is None:
            raise Refused("NO_MODEL", "not a model of this worker")
        self._mend(one, now)
        if one.place is Place.BROKEN:
            raise Refused("BROKEN_MODEL", one.hint)
        self._check_room(one)
        one.waiting.setdefault(job, now)

    def begin(self, model: bytes, job: bytes) -> int:
        """A waiting job has the device: how long it waited for the model to be loaded, in milliseconds.

        Raises KeyError unless the job waits and its model ``may_begin``.
        """
        one = self._models[model]
        if not self.may_begin(model):
            raise KeyError(model)
        asked = one.waiting.pop(job)
        one.users.add(job)
        one.served = True
        self._touch(one)
        return max(0, one.since - asked)

    def leave(self, model: bytes, job: bytes) -> None:
        """A job is over, or no longer waits. Unknown ones change nothing."""
        one = self._models.get(model)
        if one is None:
            return
        one.waiting.pop(job, None)
        if job in one.users:
            one.users.remove(job)
            self._touch(one)

    def loaded(self, model: bytes, cost: int, took_ms: int, now: int) -> None:
        """The load that was ordered is done, and really took ``cost`` bytes."""
        one = self._loading(model)
        one.place, one.since, one.cost, one.load_ms = Place.WARM, now, max(1, cost), took_ms
        one.settled, one.served = False, False
        self._touch(one)

    def failed(self, model: bytes, hint: str, now: int, *, mends: bool) -> tuple[bytes, ...]:
        """The load that was ordered failed; ``mends`` when it may work later. The jobs that waited for it."""
        one = self._loading(model)
        one.place, one.since, one.hint, one.mends = Place.BROKEN, now, hint, mends
        waiting = tuple(one.waiting)
        one.waiting.clear()
        return waiting

    # -- what to do ----------------------------------------------------------------------------------------------------

    def decide(self, now: int) -> list[Command]:
        """What to do next, in this order. To be asked after every event, and from time to time while jobs wait."""
        for one in self._models.values():
            one.held = False
            self._mend(one, now)
        commands: list[Command] = list(self._shrink(now))
        if any(one.place is Place.LOADING for one in self._models.values()):
            return commands
        for one in self._candidates():
            try:
                self._check_room(one)
            except Refused as exc:
                commands += self._decline(one, exc)
                continue
            victims = self._make_room(one, now)
            if victims is not None:
                for victim in victims:
                    victim.place, victim.since = Place.COLD, now
                one.place, one.since, one.eager = Place.LOADING, now, False
                return [*commands, *(Evict(victim.model) for victim in victims), Load(one.model)]
            if not one.eager or one.waiting:
                return commands  # who waits longest is not overtaken by who needs less
        return commands

    def may_begin(self, model: bytes) -> bool:
        """Whether a waiting job of this model may have the device now."""
        one = self._models.get(model)
        return one is not None and one.place is Place.WARM and one.settled and not one.held

    def eta_ms(self, model: bytes, now: int) -> int:
        """How long until the model is warm, as far as can be said: what loads, what is before it, itself."""
        one = self._models[model]
        if one.place is Place.WARM:
            return 0
        total = sum(_left(other, now) for other in self._models.values() if other.place is Place.LOADING)
        if one.place is Place.LOADING:
            return total
        for other in self._candidates():
            if other is one:
                break
            if other.waiting or other.pinned:
                total += other.load_ms or GUESSED_LOAD_MS
        return total + (one.load_ms or GUESSED_LOAD_MS)

    def models(self) -> tuple[Shelved, ...]:
        """All of them, to be looked at."""
        return tuple(self._models.values())

    def standing(self, model: bytes) -> str:
        """Where a model is, or that it has no room beside the pinned ones. Raises KeyError."""
        one = self._models[model]
        try:
            self._check_room(one)
        except Refused:
            return NO_ROOM
        return one.place.value

    def place(self, model: bytes) -> Place:
        """Where a model is. Raises KeyError."""
        return self._models[model].place

    def cost(self, model: bytes) -> int:
        """What a model takes, as far as is known. Raises KeyError."""
        return self._models[model].cost

    def jobs(self, model: bytes) -> frozenset[bytes]:
        """Those that wait for a model, and those that run on it."""
        one = self._models[model]
        return frozenset(one.waiting) | one.users

    def waiting(self) -> Iterator[tuple[bytes, bytes]]:
        """Models that are not warm, with each job that waits for them."""
        for one in self._models.values():
            if one.place is not Place.WARM:
                yield from ((one.model, job) for job in tuple(one.waiting))

    # -- within --------------------------------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[Shelved]:
        """Cold models that should be loaded: pinned ones, then those whose job waits longest, then the eager ones."""
        cold = [one for one in self._models.values() if one.place is Place.COLD]
        yield from (one for one in cold if one.pinned)
        rest = [one for one in cold if not one.pinned]
        yield from sorted((one for one in rest if one.waiting), key=lambda one: one.asked_at)
        yield from (one for one in rest if one.eager and not one.waiting)

    def _make_room(self, wanted: Shelved, now: int) -> list[Shelved] | None:
        """Who goes so that ``wanted`` fits; None when it must wait. Holds back the busy who have stayed long enough."""
        room = _Room(self.budget, [one for one in self._models.values() if one.is_loaded])
        victims: list[Shelved] = []
        if room.takes(wanted.cost):
            return victims
        if wanted.eager and not wanted.waiting and not wanted.pinned:
            return None  # nobody asked for it
        loaded = sorted((one for one in room.held if not one.pinned), key=lambda one: one.used_at)
        for one in loaded:
            if not one.users and not (one.waiting and self._may_stay(one, wanted, now)):
                victims.append(one)
                room.held.remove(one)
                if room.takes(wanted.cost):
                    return victims
        for one in loaded:
            if one not in victims and not self._may_stay(one, wanted, now):
                one.held = True
        return None

    def _may_stay(self, one: Shelved, wanted: Shelved, now: int) -> bool:
        """Whether a busy model keeps its room although another waits for it."""
        if one.waiting and not one.served:
            return True
        stay = max(LEAST_STAY_MS, STAY * (wanted.load_ms or GUESSED_LOAD_MS))
        return now - max(wanted.asked_at, one.since) < stay

    def _shrink(self, now: int) -> Iterator[Evict]:
        """A load that cost more than was guessed: the idle go, those that are waited for last, the new one too."""
        room = _Room(self.budget, [one for one in self._models.values() if one.is_loaded])
        idle = sorted((one for one in room.held if _may_shrink(one)), key=lambda one: (bool(one.waiting), one.used_at))
        for one in idle:
            if room.takes(0) or len(room.held) == 1:
                break
            room.held.remove(one)
            one.place, one.since = Place.COLD, now
            yield Evict(one.model)
        for one in room.held:
            one.settled = one.place is Place.WARM

    def _mend(self, one: Shelved, now: int) -> None:
        if one.place is Place.BROKEN and one.mends and now - one.since >= MEND_MS:
            one.place, one.since = Place.COLD, now

    def _check_room(self, one: Shelved) -> None:
        """Raises Refused when the pinned models leave too little for this one, whatever else goes."""
        if one.is_loaded or not self.budget:
            return
        pinned = sum(other.cost for other in self._models.values() if other.pinned and other is not one)
        if pinned and pinned + one.cost > self.budget:
            have = max(0, self.budget - pinned)
            raise Refused("NO_ROOM", "the pinned models leave too little memory for it", have=have, need=one.cost)

    def _decline(self, one: Shelved, why: Refused) -> list[Command]:
        """Its jobs hear why. Pinned, it is tried again when another pinned one has gone."""
        jobs, one.eager = tuple(one.waiting), False
        one.waiting.clear()
        return [Decline(jobs, why.code, why.hint, why.have, why.need)] if jobs else []

    def _loading(self, model: bytes) -> Shelved:
        one = self._models[model]
        if one.place is not Place.LOADING:
            raise KeyError(model)
        return one

    def _touch(self, one: Shelved) -> None:
        self._uses += 1
        one.used_at = self._uses


@dataclass(slots=True)
class _Room:
    """What is loaded, and whether so much more fits: into the budget, or because nothing else is there."""

    budget: int
    held: list[Shelved]

    def takes(self, more: int) -> bool:
        if not self.budget or not self.held:
            return True
        return sum(one.cost for one in self.held) + more <= self.budget


def _may_shrink(one: Shelved) -> bool:
    return one.place is Place.WARM and not one.users and not (one.pinned and one.settled)


def _left(one: Shelved, now: int) -> int:
    return max(0, (one.load_ms or GUESSED_LOAD_MS) - (now - one.since))
