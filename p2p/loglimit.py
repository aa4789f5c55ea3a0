"""LogLimit: a structlog processor that lets no peer, and no kind of event, fill the disk.

Lines that say the same of one peer are shown so often in a minute, lines of one kind so often in all; the last one that
is shown says so. Errors and warnings about nobody are never dropped. Knows names of fields, not what they mean.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

WINDOW = 60.0
LINES_EACH = 20  # of one kind about one peer
LINES = 600  # of one kind
SUBJECTS = 4096  # peers and kinds counted apart; past them all share one counter
ABOUT = ("peer", "gateway", "seller", "client", "neighbour")
LOUD = ("error", "critical", "exception")


class LogLimit:
    """Counts start anew each minute, so that an operator sees that it goes on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self.dropped = 0

    def __call__(self, logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """The line, or DropEvent."""
        now = self._clock()
        if now - self._since >= WINDOW:
            self._since = now
            self._seen.clear()
        kind, peer = str(line.get("event", "")), next((str(line[name]) for name in ABOUT if name in line), "")
        if not peer and method in LOUD:
            return line
        rules = [((kind, ""), LINES)]
        if peer and "job" not in line:  # a job's own lines are its own, whoever it is with
            rules.append(((kind, peer), LINES_EACH))
        for subject, most in rules:
            count = self._count(subject)
            if count > most:
                self.dropped += 1
                raise structlog.DropEvent
            if count == most:
                line["note"] = "more like this is not shown for a while"
        return line

    def _count(self, subject: tuple[str, str]) -> int:
        if subject not in self._seen and len(self._seen) >= SUBJECTS:
            subject = ("", "")
        self._seen[subject] += 1
        return self._seen[subject]
