"""Whom we have met: addresses, when, and how it went; kept on disk, so that a dead bootstrap hurts nobody.

Bounded in every direction. The best are who answered most reliably, and of those who was seen last. A file that cannot
be read is set aside and the book starts empty.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from p2p.addresses import usable_addrs
from p2p.errors import MalformedMessage
from p2p.peer import PeerId, parse_peer, peer_text
from p2p.transport import PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAX_PEERS = 1000
MAX_KINDS = 8
MAX_FILE = 4 * 1024 * 1024
MAX_COUNT = 1000
SAVE_EVERY = 30.0
VERSION = 1
_disk = trio.CapacityLimiter(1)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """What is known of one peer. ``seen`` is calendar time of the last success, 0 for none."""

    addrs: tuple[str, ...]
    kinds: set[str] = field(default_factory=set)
    seen: float = 0.0
    successes: int = 0
    failures: int = 0

    def rank(self) -> tuple[float, float]:
        """Higher is better: the smoothed share of successes in coarse steps, then how recent the last one was."""
        return round(8 * (self.successes + 1) / (self.successes + self.failures + 2)) / 8, self.seen


class AddressBook:
    """Holds at most ``most`` peers; to make room the worst one leaves, never the one that came in."""

    def __init__(self, path: Path, wall_time: Callable[[], float], *, most: int = MAX_PEERS) -> None:
        self.most = most
        self._path, self._wall_time = path, wall_time
        self._entries: dict[PeerId, Entry] = {}
        self._dirty = False

    @classmethod
    async def load(cls, path: Path, wall_time: Callable[[], float], *, most: int = MAX_PEERS) -> AddressBook:
        """The book at ``path``, or an empty one."""
        book = cls(path, wall_time, most=most)
        content = await trio.to_thread.run_sync(_read, path, limiter=_disk)
        if content is not None:
            try:
                book._entries = dict(_parse(content, most))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MalformedMessage) as exc:
                log.warning("address_book_garbled", path=str(path), reason=type(exc).__name__)
                await trio.to_thread.run_sync(_set_aside, path, limiter=_disk)
        return book

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: object) -> bool:
        return peer in self._entries

    def remember(self, target: PeerAddrs, kind: str = "") -> None:
        """Note where a peer says it is, and what it is. Addresses that nobody could dial are left out."""
        addrs = usable_addrs(target.addrs)
        if not addrs:
            return
        entry = self._entries.get(target.peer)
        if entry is None:
            entry = self._entries[target.peer] = Entry(addrs)
            if len(self._entries) > self.most:
                del self._entries[self._worst(target.peer)]
        entry.addrs = usable_addrs((*addrs, *entry.addrs))
        if kind and len(kind) <= 64 and len(entry.kinds) < MAX_KINDS:
            entry.kinds.add(kind)
        self._dirty = True

    def succeeded(self, peer: PeerId) -> None:
        """It answered, or delivered."""
        if entry := self._entries.get(peer):
            entry.successes = min(MAX_COUNT, entry.successes + 1)
            entry.seen = self._wall_time()
            self._dirty = True

    def failed(self, peer: PeerId) -> None:
        """It could not be reached, or did not deliver."""
        if entry := self._entries.get(peer):
            entry.failures = min(MAX_COUNT, entry.failures + 1)
            self._dirty = True

    def best(self, most: int, *, kind: str = "", but: Collection[PeerId] = ()) -> tuple[PeerAddrs, ...]:
        """The ``most`` best peers (of a kind), without those in ``but``."""
        fitting = [
            (entry.rank(), peer) for peer, entry in self._entries.items()
            if peer not in but and (not kind or kind in entry.kinds)
        ]  # fmt: skip
        fitting.sort(reverse=True)
        return tuple(PeerAddrs(peer, self._entries[peer].addrs) for _, peer in fitting[:most])

    def find(self, peer: PeerId) -> PeerAddrs | None:
        """Where a peer was said to be; None for one that is not in the book."""
        entry = self._entries.get(peer)
        return None if entry is None else PeerAddrs(peer, entry.addrs)

    async def save(self) -> None:
        """Write the book if it changed. A disk that does not take it is logged; the market goes on."""
        if not self._dirty:
            return
        self._dirty = False
        content = json.dumps({"version": VERSION, "peers": [_row(*item) for item in self._entries.items()]})
        try:
            await trio.to_thread.run_sync(_replace, self._path, content, limiter=_disk)
        except OSError as exc:
            self._dirty = True
            log.warning("address_book_not_saved", path=str(self._path), reason=exc.strerror)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Save now and then, and at the end."""
        task_status.started()
        try:
            while True:
                await trio.sleep(SAVE_EVERY)
                await self.save()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await self.save()

    def _worst(self, newcomer: PeerId) -> PeerId:
        return min((entry.rank(), peer) for peer, entry in self._entries.items() if peer != newcomer)[1]


def _row(peer: PeerId, entry: Entry) -> list[Any]:
    return [peer_text(peer), list(entry.addrs), sorted(entry.kinds), entry.seen, entry.successes, entry.failures]


def _parse(content: bytes, most: int) -> list[tuple[PeerId, Entry]]:
    book = json.loads(content)
    if book["version"] != VERSION:
        raise ValueError("another version")
    entries = []
    for text, addrs, kinds, seen, successes, failures in book["peers"][:most]:
        entry = Entry(
            usable_addrs(addrs),
            {str(kind)[:64] for kind in kinds[:MAX_KINDS]},
            float(seen),
            min(MAX_COUNT, max(0, int(successes))),
            min(MAX_COUNT, max(0, int(failures))),
        )
        if entry.addrs:
            entries.append((parse_peer(text), entry))
    return entries


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except FileNotFoundError:
        return None
    except OSError as exc:
        log.warning("address_book_unreadable", path=str(path), reason=exc.strerror)
        return None


def _set_aside(path: Path) -> None:
    try:
        path.replace(path.with_name(path.name + ".garbled"))
    except OSError as exc:
        log.warning("address_book_not_set_aside", path=str(path), reason=exc.strerror)


def _replace(path: Path, content: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
