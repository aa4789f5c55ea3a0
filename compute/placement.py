"""Placement: which of several devices a job goes to, and what they offer together.

A job goes where a place is free; of those, where it is done first, which counts a cold model's loading and whom it
shares the device with; of equals, to the one that has least to do. When no place is free, it waits where it is done
first all the same. Pure; knows no worker and no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from compute.capability import MAX_MODELS, Capability, ModelCapability

MOST_SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Seat:
    """One device as a job sees it that might go there. ``places`` is how many jobs it should have at a time, ``jobs``
    how many it has; ``run_ms`` how long this one takes there beside them, a cold model's loading included.
    """

    places: int
    jobs: int
    run_ms: int

    @property
    def full(self) -> bool:
        """Whether the job would wait, or be one more than was promised to the others."""
        return self.jobs >= self.places

    @property
    def done_ms(self) -> int:
        """When the job is done: those that are too many before it have their turns first."""
        rounds = 1 if not self.full else 2 + (self.jobs - self.places) // max(1, self.places)
        return self.run_ms * rounds


def choose(seats: Sequence[Seat | None], avoid: int | None = None) -> int | None:
    """The device to take, None for those that cannot run the job; None when none can.

    ``avoid`` is taken only when there is no other: the job has died there.
    """
    able = [at for at, seat in enumerate(seats) if seat is not None]
    able = [at for at in able if at != avoid] or able

    def order(at: int) -> tuple[bool, int, int]:
        seat = seats[at]
        assert seat is not None
        return seat.full, seat.done_ms, seat.jobs

    return min(able, key=order, default=None)


def spread(rooms: Sequence[int], run_ms: Callable[[int, int], int], jobs: int) -> tuple[int, ...]:
    """How so many jobs of one shape lie on empty devices of so many places, one placed after the other.

    ``run_ms(at, jobs)`` is how long one takes on a device that has so many. There are never more than places.
    """
    if jobs >= sum(rooms):
        return tuple(rooms)
    counts = [0] * len(rooms)
    for _ in range(jobs):
        at = choose(
            [
                Seat(room, count, run_ms(at, count + 1))
                for at, (room, count) in enumerate(zip(rooms, counts, strict=True))
            ]
        )
        if at is not None:
            counts[at] += 1
    return tuple(counts)


def together(offered: Iterable[tuple[Capability, int]]) -> Capability:
    """What several devices run, each with the places it has for the market.

    A model is as fast as on the slowest of them, as large as on the smallest, and warm when it is on one: what is said
    of it holds wherever its job goes.
    """
    models: dict[tuple[str, bytes], ModelCapability] = {}
    places = 0
    for capability, room in offered:
        places += room
        for entry in capability.models:
            known = models.get((entry.pipeline, entry.model))
            models[entry.pipeline, entry.model] = entry if known is None else _both(known, entry)
    return Capability(tuple(models.values())[:MAX_MODELS], min(MOST_SLOTS, max(1, places)))


def _both(one: ModelCapability, other: ModelCapability) -> ModelCapability:
    speeds = [entry.units_per_second for entry in (one, other) if entry.units_per_second]
    return replace(
        one,
        max_side=min(one.max_side, other.max_side),
        side_step=max(one.side_step, other.side_step),
        max_steps=min(one.max_steps, other.max_steps),
        max_length=min(one.max_length, other.max_length),
        max_input=min(one.max_input, other.max_input),
        units_per_second=min(speeds, default=0),
        load_ms=max(one.load_ms, other.load_ms),
        unit_ps=one.unit_ps or other.unit_ps,
        warm=one.warm or other.warm,
    )
