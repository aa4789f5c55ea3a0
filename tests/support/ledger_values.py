"""Keys, a settlement and books in one process for the tests of the ledger."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import coincurve

from ledger.cover import Cover, MemoryCover
from ledger.journal import Begun, Database, Transaction
from ledger.money import ETH, Settlement
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from ledger.sending import SendingBooks
from p2p.peer import Address, PeerId, address_of, peer_of

T = TypeVar("T")
SETTLEMENT = Settlement(1_337_000_001, Address(b"\x07" * 20))
OTHER = Settlement(1, Address(b"\x08" * 20))
SHARED_MEMORY = Path("/dev/shm")


class Key:
    """A signer with a key made of a number."""

    def __init__(self, number: int) -> None:
        self._key = coincurve.PrivateKey(number.to_bytes(32, "big"))
        self.peer: PeerId = peer_of(self._key.public_key.format(compressed=True))
        self.address: Address = address_of(self.peer)

    def sign(self, digest: bytes) -> bytes:
        raw = self._key.sign_recoverable(digest, hasher=None)
        return raw[:64] + bytes([raw[64] + 27])


ALICE, BOB, MALLORY = Key(0xA11CE), Key(0xB0B), Key(0xBAD)


class Clock:
    """Both clocks of a shell, turned by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class OnDisk(Generic[T]):
    """A write that was over when it was handed in."""

    result: T

    async def applied(self) -> T:
        return self.result

    async def wait(self) -> T:
        return self.result


class SyncJournal:
    """A journal without a writer task: each write is a commit of its own, on the caller's thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.database = Database(self.path)
        self.database.open()

    @property
    def epoch(self) -> bytes:
        return self.database.epoch

    @property
    def secret(self) -> bytes:
        """Always the same: a story that hypothesis tells again must have the same tickets win."""
        return b"s" * len(self.database.secret)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        return self.database.run(fn)

    async def begin(self, fn: Callable[[Transaction], T], *, short: bool = True) -> Begun[T]:
        return OnDisk(self.database.run(fn))

    def restart(self, *, clean: bool) -> None:
        if clean:
            self.database.close()
        else:
            self.database.abandon()
        self.open()


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory in memory where there is one: thousands of commits are tested."""
    return tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)


@dataclass
class Market:
    """Alice pays Bob. Each has a journal of its own; time stands still until it is moved."""

    folder: Path
    lives_for_ms: int = 5000

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.cover = MemoryCover({ALICE.address: Cover(ETH, ETH)})
        self.journal_out, self.journal_in = SyncJournal(self.folder / "a.db"), SyncJournal(self.folder / "b.db")
        self._chances = 0
        self.new_sending()
        self.new_receiving()

    def new_sending(self) -> None:
        self.sending = SendingBooks(
            self.journal_out, ALICE, SETTLEMENT, self.cover, clock=self.clock, wall_time=self.clock
        )
        drive(self.sending.load())

    def new_receiving(self) -> None:
        self.receiving = ReceivingBooks(
            self.journal_in,
            BOB,
            SETTLEMENT,
            ReceivingTerms(self.lives_for_ms),
            self.cover,
            wall_time=self.clock,
            chance=self._chance,
        )
        drive(self.receiving.load())

    def close(self) -> None:
        self.journal_out.database.close()
        self.journal_in.database.close()

    def _chance(self, size: int) -> bytes:
        self._chances += 1
        return self._chances.to_bytes(size, "big")
