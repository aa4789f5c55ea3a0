"""Processes that are not our children, by id: whether one still runs, and its end.

One that got the same number later is never taken for it. Shell. Knows no worker.
"""

from __future__ import annotations

from contextlib import suppress

import psutil


def look_up(pid: int) -> psutil.Process | None:
    """The process that has this id now; None when there is none, also for 0."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid) if pid else None
    return None


def runs(process: psutil.Process | None) -> bool:
    """Whether it has not ended."""
    with suppress(psutil.NoSuchProcess):
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill(process: psutil.Process) -> None:
    """End it now, whatever it does."""
    with suppress(psutil.NoSuchProcess):
        process.kill()
