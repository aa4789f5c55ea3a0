"""The journal: what was written stays, what failed did nothing, and who may open the file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.auditor import audit
from ledger.journal import MAX_GROUP, Database, Journal, Transaction
from ledger.schema import VERSION, of_wei, wei
from ledger.transaction_rows import JournalTransactions
from ledger.txstore import SentTransaction
from p2p.errors import Misconfigured, Refused, Unavailable
from tests.support.ledger_values import ALICE

ROOT = Path(__file__).parent.parent


def remember(key: str):  # type: ignore[no-untyped-def]
    def write(tx: Transaction) -> str:
        tx.db.execute("INSERT INTO meta VALUES (?, ?)", (key, b"1"))
        return key

    return write


def remembered(path: Path) -> set[str]:
    with sqlite3.connect(path) as db:
        return {row[0] for row in db.execute("SELECT key FROM meta")} - {"secret", "epoch", "clean"}


async def test_writes_that_wait_together_share_commits(tmp_path: Path, nursery: trio.Nursery) -> None:
    journal, commits, order = Journal(tmp_path / "j.db"), [], []
    await nursery.start(journal.run)
    plain = journal._database.commit
    journal._database.commit = lambda group: commits.append(len(group)) or plain(group)  # type: ignore[method-assign]

    async def one(number: int) -> None:
        def write(tx: Transaction) -> None:
            remember(str(number))(tx)
            tx.after_commit(lambda: order.append(number))

        await journal.write(write)
        assert number in order, "the callback runs before the writer goes on"

    async with trio.open_nursery() as writers:
        for number in range(1000):
            writers.start_soon(one, number)
    assert sum(commits) == len(order) == 1000
    assert len(commits) < 50
    assert max(commits) <= MAX_GROUP
    assert len(remembered(tmp_path / "j.db")) == 1000


async def test_writes_that_build_on_each_other_cost_one_commit(tmp_path: Path, nursery: trio.Nursery) -> None:
    journal, commits = Journal(tmp_path / "j.db"), []
    await nursery.start(journal.run)
    plain = journal._database.commit
    journal._database.commit = lambda group: commits.append(len(group)) or plain(group)  # type: ignore[method-assign]
    chain = [await journal.begin(remember("0"))]
    for number in range(1, 5):
        assert await chain[-1].applied() == str(number - 1)
        chain.append(await journal.begin(remember(str(number))))
    assert remembered(tmp_path / "j.db") == set(), "nothing is on disk before somebody waits for it"
    assert await chain[-1].wait() == "4"
    assert [await begun.wait() for begun in chain] == ["0", "1", "2", "3", "4"]
    assert commits == [5]
    assert remembered(tmp_path / "j.db") == {"0", "1", "2", "3", "4"}


async def test_what_nobody_waits_for_is_on_disk_all_the_same(tmp_path: Path, nursery: trio.Nursery) -> None:
    journal, landed = Journal(tmp_path / "j.db"), trio.Event()
    await nursery.start(journal.run)

    def write(tx: Transaction) -> None:
        remember("left")(tx)
        tx.after_commit(landed.set)

    await journal.begin(write)
    with trio.fail_after(10):
        await landed.wait()
    assert remembered(tmp_path / "j.db") == {"left"}


async def test_order_is_kept_between_long_writes_and_short_ones(tmp_path: Path, nursery: trio.Nursery) -> None:
    journal, order = Journal(tmp_path / "j.db"), []
    await nursery.start(journal.run)

    def noting(number: int):  # type: ignore[no-untyped-def]
        return lambda tx: order.append(number)

    async with trio.open_nursery() as writers:
        for number in range(0, 90, 3):
            first = await journal.begin(noting(number))
            writers.start_soon(first.wait)
            writers.start_soon(journal.write, noting(number + 1))
            await trio.testing.wait_all_tasks_blocked() if number % 2 else await trio.lowlevel.checkpoint()
            last = await journal.begin(noting(number + 2))
            await last.applied()
            assert order.index(number) < order.index(number + 2)
    assert sorted(order) == list(range(90))


async def test_a_short_write_that_fails_says_so_and_spares_its_neighbours(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    journal = Journal(tmp_path / "j.db")
    await nursery.start(journal.run)
    before, bad = await journal.begin(remember("before")), await journal.begin(remember("secret"))
    after = await journal.begin(remember("after"))
    for ask in (bad.applied, bad.wait):
        with pytest.raises(sqlite3.IntegrityError):
            await ask()
    await before.wait()
    await after.wait()
    assert remembered(tmp_path / "j.db") == {"before", "after"}


async def test_what_was_applied_is_on_disk_after_an_orderly_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        begun = await journal.begin(remember("last"))
        nursery.cancel_scope.cancel()
    assert await begun.wait() == "last"
    assert remembered(tmp_path / "j.db") == {"last"}


async def test_a_file_that_fails_under_a_short_write_stops_the_node(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")

    def broken(tx: Transaction) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.RaisesGroup(pytest.RaisesExc(Misconfigured, match="disk I/O error")):
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            good, bad = await journal.begin(remember("good")), await journal.begin(broken)
            for begun in (bad, good):
                with pytest.raises(Unavailable):
                    await begun.wait()
            with pytest.raises(Unavailable):
                await journal.write(remember("late"))
            await trio.sleep_forever()
    assert remembered(tmp_path / "j.db") == set()


async def test_a_write_that_fails_undoes_itself_alone(tmp_path: Path, nursery: trio.Nursery) -> None:
    journal, called = Journal(tmp_path / "j.db"), []
    await nursery.start(journal.run)

    def bad(tx: Transaction) -> None:
        remember("bad")(tx)
        tx.after_commit(lambda: called.append("bad"))
        raise Refused("NO_CREDIT", have=1, need=2)

    async def fails(write: object, error: type[Exception]) -> None:
        with pytest.raises(error):
            await journal.write(write)  # type: ignore[arg-type]

    async with trio.open_nursery() as writers:
        writers.start_soon(journal.write, remember("one"))
        writers.start_soon(fails, bad, Refused)
        writers.start_soon(fails, lambda tx: wei(-1), ValueError)
        writers.start_soon(fails, remember("secret"), sqlite3.IntegrityError)
        writers.start_soon(journal.write, remember("two"))
    assert remembered(tmp_path / "j.db") == {"one", "two"}
    assert called == []


async def test_a_cancelled_caller_leaves_no_half_write(tmp_path: Path, nursery: trio.Nursery) -> None:
    journal = Journal(tmp_path / "j.db")
    await nursery.start(journal.run)
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.write(remember("cancelled"))
    await journal.write(remember("after"))
    assert "after" in remembered(tmp_path / "j.db")


async def test_after_the_end_nothing_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        assert not journal.unclean
        nursery.cancel_scope.cancel()
    with pytest.raises(Unavailable):
        await journal.write(remember("late"))
    again = Journal(tmp_path / "j.db")
    async with trio.open_nursery() as nursery:
        await nursery.start(again.run)
        assert (again.epoch, again.secret, again.unclean) == (journal.epoch, journal.secret, False)
        nursery.cancel_scope.cancel()


async def test_a_full_disk_stops_the_node_and_every_waiting_write(tmp_path: Path) -> None:
    journal, failed = Journal(tmp_path / "j.db"), []

    async def write() -> None:
        try:
            await journal.write(remember("x"))
        except Unavailable:
            failed.append(1)

    def full(group: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.RaisesGroup(pytest.RaisesExc(Misconfigured, match="disk full")):
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            journal._database.commit = full  # type: ignore[method-assign,assignment]
            for _ in range(2 * MAX_GROUP):
                nursery.start_soon(write)
    assert failed
    found = Database(tmp_path / "j.db")
    found.open()
    assert found.unclean
    found.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = Database(tmp_path / "j.db"), Database(tmp_path / "j.db")
    first.open()
    with pytest.raises(Misconfigured, match="another process"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "data" / "j.db")
    database.open()
    database.run(remember("x"))
    for path in (tmp_path / "data").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name
    database.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "j.db")
    database.open()
    database.db.execute(f"PRAGMA user_version={VERSION + 1}")
    database.close()
    with pytest.raises(Misconfigured, match="newer"):
        Database(tmp_path / "j.db").open()


@pytest.mark.parametrize("damage", ["head", "middle", "text", "foreign", "folder"])
def test_what_is_no_journal_is_refused_with_what_to_do(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "j.db"
    database = Database(path)
    database.open()
    database.run(lambda tx: [remember(f"{number:0200}")(tx) for number in range(200)])
    database.close()
    data = path.read_bytes()
    if damage == "head":
        path.write_bytes(b"\xff" * 100 + data[100:])
    elif damage == "middle":
        path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    elif damage == "text":
        path.write_text("not a database at all, but long enough to be read as the head of one" * 20)
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
        else:
            with sqlite3.connect(path) as other:
                other.execute("CREATE TABLE mine (x)")
    with pytest.raises(Misconfigured, match=r"damaged|something else|cannot open"):
        Database(path).open()
    assert path.is_dir() or path.read_bytes() != b"", "it is left as it was"


def test_wei_in_columns() -> None:
    for amount in (0, 1, 2**64, 2**128 - 1):
        assert of_wei(wei(amount)) == amount
    for amount in (-1, 2**128):
        with pytest.raises(ValueError, match="no amount"):
            wei(amount)


async def test_nonces_of_transactions_outlive_the_process(tmp_path: Path) -> None:
    sent = [SentTransaction(1337, ALICE.address, n, bytes([n, t])) for n in (0, 1) for t in (0, 1)]
    for start in range(2):
        async with trio.open_nursery() as nursery:
            journal = Journal(tmp_path / "j.db")
            await nursery.start(journal.run)
            store = JournalTransactions(journal)
            if start == 0:
                for one in (*sent, sent[0]):
                    await store.record(one)
                await store.end(sent[0], mined=True)
            assert await store.next_nonce(1337, ALICE.address) == 1
            assert await store.next_nonce(1, ALICE.address) == 0
            assert sorted(s.raw for s in await store.open_transactions(1337, ALICE.address)) == [b"\1\0", b"\1\1"]
            nursery.cancel_scope.cancel()


CHILD = """
import sys
from pathlib import Path
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))
from tests.support.ledger_values import ALICE, BOB, Market, drive
from ledger.ticket import payment_id
folder, start = Path(sys.argv[1]), int(sys.argv[2])
market = Market(folder)
for n in range(start, start + 100_000):
    job = n.to_bytes(32, "big")
    params = drive(market.receiving.params_for(ALICE.address, 1000, tickets=2))
    payment = drive(market.sending.pay(payment_id(job, 1, 0), BOB.address, 1000, params, job_id=job))
    verdict = drive(market.receiving.receive(ALICE.address, payment))
    credited = drive(market.sending.settle(BOB.address, verdict, BOB.address))
    print(n, credited, flush=True)
    drive(market.receiving.debit(ALICE.address, job, 1, 1000))
    drive(market.sending.debit(BOB.address, job, 1, 1000))
"""


@pytest.mark.live
def test_killed_at_any_write_the_books_balance_and_nothing_said_is_forgotten(tmp_path: Path) -> None:
    """A process that pays itself all day is killed in the middle of it, over and over."""
    said = 0
    for turn in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(turn * 1_000_000)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(3 + 5 * turn)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        said += sum(int(line.split()[1]) for line in lines if line.endswith(b"\n"))
        for name, side in (("a.db", "out"), ("b.db", "in")):
            database = Database(tmp_path / name)
            database.open()
            assert database.unclean
            assert database.run(audit) == ()
            [(credit,)] = database.db.execute("SELECT credit FROM accounts WHERE side = ?", (side,))
            assert of_wei(credit) >= said
            database.abandon()
