"""What a device does, and since when nothing moved in it, as health is told. Pure: time is ``now`` in seconds."""

from __future__ import annotations

from compute.messages import Phase


class Progress:
    """Jobs run and a model loads, both may at once. Starts with loading: the device itself has to be opened."""

    def __init__(self, now: float) -> None:
        self._moved = {Phase.LOADING: now}

    def move(self, phase: Phase, now: float) -> None:
        """The device showed life."""
        self._moved[phase] = now

    def rest(self, phase: Phase) -> None:
        """Nothing of this kind is under way."""
        self._moved.pop(phase, None)

    def told(self, number: int, now: float) -> tuple[Phase, int]:
        """A phase and its quiet milliseconds; of two phases each ping hears of the other one in turn."""
        if not self._moved:
            return Phase.IDLE, 0
        phase = sorted(self._moved)[number % len(self._moved)]
        return phase, int((now - self._moved[phase]) * 1000)
