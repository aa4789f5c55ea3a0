"""Batching: which of the open jobs of a device make the next step together.

Jobs of one group (model, size of the latents, number format) can share a step, as many as the group's limit. They join
and leave between any two steps. The job that is due first chooses the group, and the others of its group that are due
first come along. That alone would starve jobs, so everybody has a fair share:

    round   the time in which each open job makes one step: for each group, its steps (jobs / limit, rounded up) times
            what a step of it takes
    wait    from a job's joining, or the end of its last step, to the beginning of its next
    law     a wait is always shorter than two rounds, of the longest round that there was during it

It holds because a choice by due time is made only when nobody's wait would grow past a round by it; otherwise the turn
is the longest wait's, whose group comes along longest wait first. From then on nobody passes it, and those before it
have one step each: that is less than a round.

Pure: times are microseconds and measured by others. Knows no model, no tensor and no caller.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Group = Hashable
SIZES = (1, 2, 4, 8, 16)  # that are measured when a model is loaded
MAX_OPEN = SIZES[-1]  # jobs with a place on a device
MOST_GAIN = 100 * SIZES[-1]
LEAST_GAIN = 105  # percent of what half as many do, for a larger batch to be used: less may be an error of measurement
WORTH = 110  # percent, for more places: each makes all promises longer, and so must earn it


@dataclass(slots=True)
class _Place:
    group: Group
    due: int
    joined: int
    waited: int = 0


@dataclass(slots=True)
class _Kind:
    """What is known of a group: how many share a step, and how long a step of it takes."""

    limit: int
    cost: int


@dataclass(slots=True)
class Batching:
    """The open jobs. Invariant: every job that is open makes a step in less than two rounds."""

    _places: dict[bytes, _Place] = field(default_factory=dict)
    _kinds: dict[Group, _Kind] = field(default_factory=dict)
    _joins: int = 0

    def __len__(self) -> int:
        return len(self._places)

    def join(self, job_id: bytes, group: Group, due: int, limit: int, cost: int) -> None:
        """A job is open from now on. Of a new group, ``limit`` may share a step, which is thought to take ``cost``."""
        self._joins += 1
        self._places[job_id] = _Place(group, due, self._joins)
        if group not in self._kinds:
            self._kinds[group] = _Kind(max(1, limit), max(1, cost))

    def expect(self, job_id: bytes, due: int) -> None:
        """An open job is due then. An unknown one changes nothing."""
        if job_id in self._places:
            self._places[job_id].due = due

    def leave(self, job_id: bytes) -> None:
        """A job is done or given up. An unknown one changes nothing."""
        gone = self._places.pop(job_id, None)
        if gone is not None and all(place.group != gone.group for place in self._places.values()):
            del self._kinds[gone.group]

    def narrow(self, job_id: bytes, limit: int) -> None:
        """So many of this job's group are all that fit, as it turned out."""
        kind = self._kinds[self._places[job_id].group]
        kind.limit = max(1, min(kind.limit, limit))

    def next_step(self) -> tuple[bytes, ...]:
        """Who makes the next step together; none when nobody is open."""
        if not self._places:
            return ()
        by_due = self._sharing(min(self._places.values(), key=_due), _due)
        cost, most = self._kinds[self._places[by_due[0]].group].cost, self.round()
        if all(place.waited + cost <= most for job_id, place in self._places.items() if job_id not in by_due):
            return by_due
        return self._sharing(min(self._places.values(), key=_longest), _longest)

    def stepped(self, job_ids: Sequence[bytes], took: int) -> None:
        """These made a step in ``took``; the others waited for it."""
        places = [self._places[job_id] for job_id in job_ids]
        for place in self._places.values():
            place.waited += took
        for place in places:
            place.waited = 0
        if places:
            self._kinds[places[0].group].cost = max(1, took)

    def round(self) -> int:
        """How long it takes until each open job has made one step."""
        counts: dict[Group, int] = {}
        for place in self._places.values():
            counts[place.group] = counts.get(place.group, 0) + 1
        return sum(-(-count // self._kinds[group].limit) * self._kinds[group].cost for group, count in counts.items())

    def _sharing(self, first: _Place, order: Callable[[_Place], tuple[int, int]]) -> tuple[bytes, ...]:
        members = [(*order(place), job_id) for job_id, place in self._places.items() if place.group == first.group]
        return tuple(job_id for _, _, job_id in sorted(members)[: self._kinds[first.group].limit])


def gains_of(rates: Iterable[float]) -> tuple[int, ...]:
    """What each size of ``SIZES`` does in percent of a batch of one, as far as a larger batch paid.

    ``rates`` are samples per second, size by size; they are taken no further than the first that does not pay.
    """
    gains: list[int] = []
    first = 0.0
    for rate in rates:
        first = first or rate
        gain = min(MOST_GAIN, int(100 * (rate / first)))
        if gains and gain * 100 < gains[-1] * LEAST_GAIN:
            break
        gains.append(gain)
    return tuple(gains) or (100,)


def fitting(gains: Sequence[int], pixels: int, native_pixels: int) -> tuple[int, ...]:
    """The gains that hold for samples of another size than was measured: no batch of more pixels in all than those."""
    most = limit_of(gains) * native_pixels
    return tuple(gains[: max(1, sum(size * pixels <= most for size in SIZES[: len(gains)]))])


def limit_of(gains: Sequence[int]) -> int:
    """How many samples share a step."""
    return SIZES[len(gains) - 1]


def worthwhile(gains: Sequence[int]) -> int:
    """How many jobs at a time are worth promising: as long as twice as many do a tenth more."""
    paying = [smaller * WORTH <= larger * 100 for smaller, larger in pairwise(gains)]
    return SIZES[([*paying, False]).index(False)]


def gain_at(jobs: int, gains: Sequence[int]) -> int:
    """What so many samples together do, in percent of one alone: as much as the next smaller size that was measured."""
    return [gain for size, gain in zip(SIZES, gains, strict=False) if size <= jobs][-1]


def crowded(alone: int, jobs: int, gains: Sequence[int]) -> int:
    """How long a job takes when ``jobs`` run at the same time, itself included, and it takes ``alone`` alone."""
    return -(-alone * jobs * 100 // gain_at(jobs, gains))


def _due(place: _Place) -> tuple[int, int]:
    return place.due, place.joined


def _longest(place: _Place) -> tuple[int, int]:
    return -place.waited, place.joined
