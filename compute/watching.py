"""Watching: what is called between two pieces of a job's work: whether it was given up, and how far it is.

Called in the device's thread, while the event loop goes on. Pieces may be many; few of them are told. Shell: reads the
clock. Knows no model, and no job but its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from compute.pipeline import Cancelled

PARTS = 100  # of one job that are told at most


class Watch:
    """``given_up`` says whether the work shall end; ``tell`` hears parts done, parts in all, milliseconds to go."""

    def __init__(self, given_up: Callable[[], bool], tell: Callable[[int, int, int], None]) -> None:
        self._given_up, self._tell = given_up, tell
        self._began_at = 0.0
        self._told = 0

    def __call__(self, done: int, of: int) -> None:
        """``done`` pieces of ``of`` are done. Raises Cancelled."""
        if self._given_up():
            raise Cancelled
        now = time.monotonic()
        if done <= 0 or not self._began_at:
            self._began_at = now
        if not 0 < done < of:  # the end is told with the result
            return
        parts = min(of, PARTS)
        part = done * parts // of
        if part > self._told:
            self._told = part
            self._tell(part, parts, int((now - self._began_at) * 1000) * (of - done) // done)
