"""What a simulation did: a digest over everything that was said and when, and the facts that are judged at its end.

Two runs of one seed have the same digest. Knows no rule; ``invariants.py`` does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

import trio

from market.bidwire import BidCancelled, JobFailed
from market.client import Delivered
from market.refusal import Refusal

Ending = Delivered | Refusal | JobFailed | BidCancelled | str  # text: an end without an answer, by its code


class Trace:
    """Grows by one line for each thing that happens; ``show`` gets them as text where somebody wants to read them."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._digest = blake2b(digest_size=16)
        self._show = show
        self.lines = 0

    def say(self, who: str, what: str, data: bytes = b"") -> None:
        now = trio.current_time()
        self.lines += 1
        self._digest.update(f"{now:.6f} {who} {what} {len(data)}\n".encode() + data)
        if self._show is not None:
            self._show(f"{now:10.4f}  {who:14} {what}{f' {len(data)} bytes' if data else ''}")

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class End:
    """How one bid ended at one gateway, and when. ``job_id`` names it there."""

    gateway: str
    job_id: bytes
    at: float
    ending: Ending


@dataclass(slots=True)
class Followed:
    """One job as its client saw it: every gateway it went to, and what the same bid came to when it was said again."""

    asked_at: float = 0.0
    ends: list[End] = field(default_factory=list)
    again: Ending | None = None


@dataclass(slots=True)
class Credited:
    """What one seller made of one payment id: a line for each payload that came, with what it was credited."""

    payloads: dict[bytes, int] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """What was watched while the simulation ran."""

    jobs: dict[str, Followed] = field(default_factory=dict)
    payments: dict[tuple[str, bytes, bytes], Credited] = field(default_factory=lambda: defaultdict(Credited))
    # by stream, job and attempt: how often a key was said, and how often an award or a resume asked where things stand
    keys: dict[tuple[int, bytes, int], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    disturbed: set[str] = field(default_factory=set)  # nodes that crashed, or could not be reached for a while
    fallen: dict[str, str] = field(default_factory=dict)  # nodes that ended by themselves, and why


def told(ending: Ending) -> str:
    """An ending in a word or two."""
    if isinstance(ending, str):
        return ending
    code = getattr(ending, "code", "")
    return f"{type(ending).__name__} {code}".strip()
