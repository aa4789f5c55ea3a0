"""The disk of the simulator keeps the promises of the real one: one suite over both."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio
import trio.testing

from benchmarks.simulator.disk import Disk, DiskJournal, DiskKeeping
from ledger.database import Transaction
from ledger.journal import Journal
from market.bidwire import Thanks
from market.keeping import Keeping
from p2p.errors import Unavailable

Work = Callable[[Any], Awaitable[None]]
THANKS = Thanks(bytes(32))


class Place(Protocol):
    """Somewhere a node may live and die, again and again."""

    async def live(self, work: Work, *, killed: bool = False) -> None: ...


class RealPlace:
    """A journal in a file. A kill is what is left of the file when nobody closed it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lives = folder, 0
        self._path = folder / "0" / "journal.db"

    async def live(self, work: Work, *, killed: bool = False) -> None:
        async with trio.open_nursery() as nursery:
            journal = Journal(self._path)
            await nursery.start(journal.run)
            await work(journal)
            if killed:  # the next life finds the files as they are at this moment
                self._lives += 1
                other = self._folder / str(self._lives)
                other.mkdir()
                for path in self._path.parent.glob("journal.db*"):
                    if not path.name.endswith("lock"):
                        (other / path.name).write_bytes(path.read_bytes())
                self._path = other / "journal.db"
            nursery.cancel_scope.cancel()


class SimulatedPlace:
    """A journal on a simulated disk."""

    def __init__(self) -> None:
        self._disk = Disk(b"test")

    async def live(self, work: Work, *, killed: bool = False) -> None:
        async with trio.open_nursery() as nursery:
            journal = DiskJournal(self._disk)
            await nursery.start(journal.run)
            await work(journal)
            if killed:
                journal.crash()
            nursery.cancel_scope.cancel()


@pytest.fixture(params=["real", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return RealPlace(tmp_path) if request.param == "real" else SimulatedPlace()


def put(name: bytes) -> Callable[[Transaction], bytes]:
    def write(tx: Transaction) -> bytes:
        tx.db.execute("INSERT INTO params_out VALUES (?, ?, 1, 0, 0)", (name, b"digest"))
        return name

    return write


def names(tx: Transaction) -> list[bytes]:
    return [row[0] for row in tx.db.execute("SELECT rand_hash FROM params_out ORDER BY rand_hash")]


async def test_what_was_written_is_there_after_an_orderly_end(place: Place) -> None:
    async def first(journal: Journal) -> None:
        assert not journal.unclean
        assert await journal.write(put(b"a")) == b"a"

    async def second(journal: Journal) -> None:
        assert not journal.unclean
        assert await journal.write(names) == [b"a"]

    await place.live(first)
    await place.live(second)


async def test_a_write_that_raises_undoes_itself_alone(place: Place) -> None:
    def broken(tx: Transaction) -> None:
        put(b"b")(tx)
        raise ValueError("no")

    async def work(journal: Journal) -> None:
        one, two, three = [await journal.begin(write) for write in (put(b"a"), broken, put(b"c"))]
        assert await one.wait() == b"a"
        with pytest.raises(ValueError, match="no"):
            await two.applied()
        with pytest.raises(ValueError, match="no"):
            await two.wait()
        assert await three.wait() == b"c"
        assert await journal.write(names) == [b"a", b"c"]

    await place.live(work)


async def test_writes_are_applied_in_order_and_the_last_wait_covers_all(place: Place) -> None:
    seen: list[bytes] = []

    def counted(tx: Transaction) -> int:
        tx.after_commit(lambda: seen.append(b"committed"))
        return len(names(tx))

    async def work(journal: Journal) -> None:
        await journal.begin(put(b"a"))
        await journal.begin(put(b"b"))
        begun = await journal.begin(counted)
        assert await begun.applied() == 2
        assert await begun.wait() == 2
        assert seen == [b"committed"]

    async def again(journal: Journal) -> None:
        assert await journal.write(names) == [b"a", b"b"]

    await place.live(work, killed=True)
    await place.live(again)


async def test_what_was_not_committed_is_gone_after_a_kill(place: Place) -> None:
    async def work(journal: Journal) -> None:
        await journal.write(put(b"a"))
        await (await journal.begin(put(b"b"))).applied()

    async def again(journal: Journal) -> None:
        assert journal.unclean
        assert await journal.write(names) == [b"a"]

    await place.live(work, killed=True)
    await place.live(again)


async def test_params_from_before_a_kill_are_dropped(place: Place) -> None:
    async def work(journal: Journal) -> None:
        await journal.write(put(b"a"))

    async def again(journal: Journal) -> None:
        dropped = await journal.write(lambda tx: tx.db.execute("SELECT dropped FROM params_out").fetchall())
        assert dropped == [(1,)]

    await place.live(work, killed=True)
    await place.live(again)


async def test_a_journal_that_is_over_takes_nothing(place: Place) -> None:
    kept: list[Journal] = []

    async def work(journal: Journal) -> None:
        kept.append(journal)
        assert journal.epoch
        assert journal.secret

    await place.live(work)
    with pytest.raises(Unavailable):
        await kept[0].write(put(b"a"))


@asynccontextmanager
async def keepings(tmp_path: Path) -> AsyncGenerator[tuple[Keeping, ...]]:
    yield Keeping(tmp_path / "kept"), DiskKeeping(Disk(b"test"), "kept", lambda: 1.0)


async def test_both_keepings_keep_the_same(tmp_path: Path) -> None:
    async with keepings(tmp_path) as both:
        for keeping in both:
            assert await keeping.get("a", Thanks) is None
            await keeping.put("a", THANKS, [b"one", b"two"])
            assert await keeping.get("a", Thanks) == (THANKS, [b"one", b"two"])
            assert await keeping.note("a", Thanks) == THANKS
            assert await keeping.read("a", 1, 1, 2) == b"wo"
            for index, offset, length in ((2, 0, 1), (0, 2, 5)):
                with pytest.raises(Unavailable):
                    await keeping.read("a", index, offset, length)
            assert [name for name, _ in await keeping.names()] == ["a"]
            await keeping.put("a", THANKS, [b"three"])
            assert await keeping.get("a", Thanks) == (THANKS, [b"three"])
            await keeping.drop("a")
            await keeping.drop("a")
            assert await keeping.note("a", Thanks) is None
            assert await keeping.names() == []
