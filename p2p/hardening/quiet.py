"""The library's log, made fit to be read: no tracebacks, one line a record, and no peer can fill the disk with it.

What the library calls a warning or an error is a peer that left or broke a rule: nothing that the operator of this
node can act on. All of it is handed on as DEBUG; what does concern this node is raised, and logged where it is caught.
Knows nothing of what is said. The clock is an argument, so that a minute need not pass to see the counters start anew.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable

LIBRARY = "libp2p"
LINES = 10  # per peer, or per place in the source when no peer is named, in one window
WINDOW = 60.0
SUBJECTS = 1024  # peers and places counted apart; past them all share one counter
LINE_MOST = 300
_PEER = re.compile(r"\b(?:16Uiu2|12D3Koo|Qm)[1-9A-HJ-NP-Za-km-z]{20,60}")


class Throttle(logging.Filter):
    """Lets LINES lines of one subject pass in a window, as one line of DEBUG each, without traceback."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._log, self._clock = log, clock
        self._since = clock()
        self._seen: Counter[str] = Counter()
        self.dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not _is_library(record):
            return True
        if not self._log.isEnabledFor(logging.DEBUG):
            return False
        now = self._clock()
        if now - self._since >= WINDOW:
            self._since = now
            self._seen.clear()
        text = _one_line(record)
        subject = self._subject(record, text)
        self._seen[subject] += 1
        if self._seen[subject] > LINES:
            self.dropped += 1
            return False
        last = self._seen[subject] == LINES
        record.msg, record.args = (f"{text} (more of this kind is not shown for a while)" if last else text), ()
        record.exc_info = record.exc_text = record.stack_info = None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return True

    def _subject(self, record: logging.LogRecord, text: str) -> str:
        peer = _PEER.search(text)
        subject = peer.group() if peer else f"{record.module}:{record.lineno}"
        return subject if subject in self._seen or len(self._seen) < SUBJECTS else ""


class _Forward(logging.Handler):
    """Hands the library's records to whatever handles the log of this process."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().callHandlers(record)  # past the root's filters: the record has been through ours


def _is_library(record: logging.LogRecord) -> bool:
    # Parts of the library log through the root logger, so that the name alone does not tell.
    return record.name.split(".")[0] == LIBRARY or f"/{LIBRARY}/" in record.pathname.replace("\\", "/")


def _one_line(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # a format that does not fit its arguments
        text = str(record.msg)
    first = text.split("\n", 1)[0]
    if record.exc_info and record.exc_info[1] is not None:
        first = f"{first} ({type(record.exc_info[1]).__name__})"
    return first[:LINE_MOST]


def quieten() -> Throttle:
    """Put one throttle before everything the library logs, through its own loggers and through the root's."""
    root = logging.getLogger()
    throttle = Throttle(root)
    logger = logging.getLogger(LIBRARY)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.handlers[:] = [forward := _Forward()]
    forward.addFilter(throttle)
    root.addFilter(throttle)
    if not root.handlers:
        # The library calls logging.debug(), which would set up the root itself, on stderr, in a format of its own.
        root.addHandler(logging.lastResort or logging.NullHandler())
    return throttle
