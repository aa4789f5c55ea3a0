"""Stillness: inside ``still(seed)`` nothing but the seed decides what happens.

Chance and the order in which trio runs tasks come from the seed, threads run in their caller's place, signatures are
keyed hashes, the log is silent, and the garbage collector waits. Messages are decoded once: what was encoded here is
known by its bytes. All of it is put back at the end. One simulation at a time in a process.
"""

from __future__ import annotations

import gc
import math
import secrets
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import cache
from random import Random
from typing import Any
from unittest.mock import patch

import trio
import trio._core._run as _run

import ledger.ticket
import market.bookfeed
import market.loaddesk
import market.offering
import p2p.codec
import p2p.peer
from benchmarks.simulator.cheap import Curve
from p2p.errors import MalformedMessage

OURS = ("p2p.", "compute.", "ledger.", "market.", "benchmarks.", "tests.")
MOST_KNOWN = 200_000
# How often nodes look after what changes little in a simulation: at their own pace it would be most of what they do.
HOUSEKEEPING = (
    (market.offering, "LOOK_EVERY_S", 7.0),
    (market.bookfeed, "EXPIRE_EVERY_S", 60.0),
    (market.loaddesk, "LOOK_S", 0.4),
    (market.loaddesk, "BEAT_MS", 2500),
)
LATE_S = 1e-6  # a timer is never early and always a little late, which whoever counts whole milliseconds relies on
_MOMENT_S = 0.05


class JumpingClock(trio.abc.Clock):
    """Time stands still while anybody has something to do, and jumps to the next deadline when nobody has.

    What ``trio.testing.MockClock`` does with ``autojump_threshold=0``, in one pass of the scheduler for each jump
    instead of two: where no thread and no socket can wake anybody, nothing has to be waited for.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        """It runs already."""

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked by trio when no task can run: there is nothing to sleep for."""
        if deadline == math.inf:
            return _MOMENT_S  # trio's own tasks, at the very end
        self._now = max(self._now, deadline + LATE_S)
        return 0.0


async def _in_place(fn: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """``trio.to_thread.run_sync`` without a thread."""
    await trio.lowlevel.checkpoint()
    return fn(*args)


@contextmanager
def prepared(*, cached: bool = True, calm: bool = True) -> Generator[None]:
    """What holds for any number of runs; ``still`` opens it where nobody has.

    ``cached``: each message is read once. ``calm``: nodes look after themselves less often than they would.
    """
    with ExitStack() as stack:
        for module in (p2p.peer, ledger.ticket):
            stack.enter_context(patch.object(module, "coincurve", Curve))
        stack.enter_context(patch.object(trio.to_thread, "run_sync", _in_place))
        stack.enter_context(patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True))
        for module, name, value in HOUSEKEEPING if calm else ():
            stack.enter_context(patch.object(module, name, value))
        stack.enter_context(_swapped(lambda name, value: _SILENT if name == "log" else value))
        if cached:
            stack.enter_context(_codec_cached())
        stack.callback(gc.enable)
        gc.disable()
        yield


@contextmanager
def still(seed: int) -> Generator[None]:
    """One run."""
    chance = Random(seed)
    with (
        patch.object(_run, "_r", Random(seed)),
        patch.object(secrets, "token_bytes", lambda size=32: chance.randbytes(size)),
    ):
        yield


class _Silence:
    """A logger that hears nothing."""

    def bind(self, **_: Any) -> _Silence:
        return self

    def debug(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    info = warning = error = exception = debug


_SILENT = _Silence()


@contextmanager
def _swapped(other: Callable[[str, Any], Any]) -> Generator[None]:
    """Put something else in the place of names in our modules, and all of it back."""
    before = []
    for title, module in tuple(sys.modules.items()):
        for name, value in tuple(vars(module).items()) if title.startswith(OURS) else ():
            if (swap := other(name, value)) is not value:
                before.append((module, name, value))
                setattr(module, name, swap)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def _codec_cached() -> Generator[None]:
    real_encode, real_decode, known = p2p.codec.encode, p2p.codec.decode, dict[bytes, Any]()

    def encode(value: Any) -> bytes:
        data = real_encode(value)
        if len(known) > MOST_KNOWN:
            known.clear()
        known[data] = value
        return data

    def decode(data: bytes, limit: int = p2p.codec.MAX_MESSAGE) -> Any:
        if len(data) > limit:
            raise MalformedMessage(f"{len(data)} bytes, more than {limit}")
        value = known.get(data)
        if value is None:
            value = known[data] = real_decode(data, limit)
        return value

    lowered: dict[int, tuple[Any, list[Any]]] = {}
    real_lower = p2p.codec._lower

    def lower(cls: type, value: Any) -> list[Any]:
        """Values do not change: what they are made of is worked out once. They are kept: no id is used twice."""
        found = lowered.get(id(value))
        if found is None:
            if len(lowered) > MOST_KNOWN:
                lowered.clear()
            found = lowered[id(value)] = (value, real_lower(cls, value))
        return found[1]

    slow: dict[int, Callable[..., Any]] = {
        id(real_encode): encode,
        id(real_decode): decode,
        id(real_lower): lower,
        id(p2p.peer.address_of): cache(p2p.peer.address_of),
        id(p2p.peer.peer_text): cache(p2p.peer.peer_text),
    }
    with _swapped(lambda _, value: slow.get(id(value), value)):
        yield
