"""Loads: what is said on ``/pasar/load/1``, when it is worth saying, and what a gateway makes of what it heard.

    gateway        hello, load-ask
    orchestrator   hello, load, load, ...        on change, at most five a second; a beat when nothing changes

A Load is a claim of this moment: it orders whom to ask and proves nothing. Pure: ``now`` is milliseconds of a steady
clock. Knows no stream and no book.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from market.offer import Load, Pipeline
from p2p.codec import Range, Size, message
from p2p.peer import PeerId, WirePeer

BEAT_MS = 1000  # a Load at least so often, so that silence says something
GAP_MS = 200  # between two Loads of one pipeline: five a second
STALE_MS = 3 * BEAT_MS  # three beats missed, and nothing is known
MAX_PIPELINES = 16
CAP = 64  # sellers of one pipeline whose Loads a gateway follows
QUEUE_NEWS_MS = 500  # a queue that empties as was said is no news; one that is so far off is


@message("load-ask", 1)
@dataclass(frozen=True, slots=True)
class LoadAsk:
    """Say how busy these pipelines are, now and on every change, until this stream ends. One ask for each stream."""

    pipelines: Annotated[tuple[Pipeline, ...], Size(1, MAX_PIPELINES)]


@dataclass(frozen=True, slots=True)
class HeardLoad:
    """A seller's last Load and how long ago it came. Hearsay: the stream that proved it was another one."""

    seller: WirePeer
    load: Load
    age_ms: Annotated[int, Range(0, STALE_MS)]


@message("loads-heard", 1)
@dataclass(frozen=True, slots=True)
class LoadsHeard:
    """What a gateway answers to a load-ask, once: every Load that it knows of these pipelines."""

    loads: Annotated[tuple[HeardLoad, ...], Size(0, CAP)]


def worth_saying(said: Load | None, fresh: Load, passed_ms: int) -> bool:
    """Whether ``fresh`` differs from what a listener makes of ``said``, ``passed_ms`` after it was said."""
    if said is None or (said.free, said.queue, said.warm) != (fresh.free, fresh.queue, fresh.warm):
        return True
    expected = max(0, said.queue_ms - passed_ms)
    return abs(fresh.queue_ms - expected) > max(QUEUE_NEWS_MS, expected // 4)


def aged(load: Load, passed_ms: int) -> Load:
    """A Load ``passed_ms`` after it came: its queue has gone on emptying."""
    return replace(load, queue_ms=max(0, load.queue_ms - passed_ms)) if load.queue_ms else load


@dataclass(frozen=True, slots=True)
class _Heard:
    load: Load
    at: int


class LoadBoard:
    """The newest Load of every seller and pipeline that is followed, as long as it is not stale."""

    def __init__(self) -> None:
        self._heard: dict[str, dict[PeerId, _Heard]] = {}
        self._last: dict[PeerId, int] = {}

    def begin(self, seller: PeerId) -> None:
        """A new stream with this seller: its numbers start anew. What was heard before stands until it is stale."""
        self._last.pop(seller, None)

    def heard(self, seller: PeerId, load: Load, now: int) -> bool:
        """Take a Load; False, and nothing changes, when its number is not above the last one of this stream."""
        if load.sequence <= self._last.get(seller, -1):
            return False
        self._last[seller] = load.sequence
        self._heard.setdefault(load.pipeline, {})[seller] = _Heard(load, now)
        return True

    def forget(self, seller: PeerId) -> None:
        """This seller is not followed any more."""
        self._last.pop(seller, None)
        for heard in self._heard.values():
            heard.pop(seller, None)

    def of(self, seller: PeerId, pipeline: str, now: int) -> Load | None:
        """This seller's Load as it stands now; None when there is none or it is stale."""
        known = self._heard.get(pipeline, {}).get(seller)
        return None if known is None or now - known.at > STALE_MS else aged(known.load, now - known.at)

    def loads(self, pipeline: str, now: int) -> dict[PeerId, Load]:
        """Every fresh Load of one pipeline, as it stands now."""
        heard = self._heard.get(pipeline, {})
        fresh = {seller: now - known.at for seller, known in heard.items() if now - known.at <= STALE_MS}
        return {seller: aged(heard[seller].load, passed) for seller, passed in fresh.items()}

    def hearsay(self, pipelines: Iterable[str], now: int) -> LoadsHeard:
        """What we tell somebody who only wants to look: the freshest first, as many as fit."""
        found = [
            HeardLoad(seller, known.load, max(0, now - known.at))
            for pipeline in dict.fromkeys(pipelines)
            for seller, known in self._heard.get(pipeline, {}).items()
            if now - known.at <= STALE_MS
        ]
        return LoadsHeard(tuple(sorted(found, key=lambda one: (one.age_ms, one.seller))[:CAP]))
