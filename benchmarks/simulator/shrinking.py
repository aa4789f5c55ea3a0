"""Cut a failing schedule down to what it needs: whatever can be left out while it still fails is left out.

Halves first, then ever smaller parts, then one by one, until nothing more can go. Pure: whoever asks runs the
schedules.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.simulator.schedule import Schedule


def shrunk(schedule: Schedule, fails: Callable[[Schedule], bool]) -> tuple[Schedule, tuple[str, ...]]:
    """The shortest that was found, and the names of what was left out. ``schedule`` itself must fail."""
    left_out: set[str] = set()
    size = max(1, len(schedule.names) // 2)
    while size:
        names = [name for name in schedule.names if name not in left_out]
        parts = [names[at : at + size] for at in range(0, len(names), size)]
        cut = False
        for part in parts:
            if fails(schedule.without(left_out | set(part))):
                left_out |= set(part)
                cut = True
        if not (cut and size == 1):
            size //= 2
    return schedule.without(left_out), tuple(name for name in schedule.names if name in left_out)
