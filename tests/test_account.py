"""Accounts, statements, standing, and the face value rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.account import Account, News, Pair, Standing, adopted, compare
from ledger.cover import Round
from ledger.money import ETH, MAX_WEI
from ledger.recipient import ParamsUse, ReceivingTerms, Recipient, face_value_for, first_use
from ledger.ticket import TicketParams
from p2p.errors import Refused
from p2p.peer import keccak256
from tests.support.ledger_values import ALICE, BOB, MALLORY, SETTLEMENT

EPOCH, OTHER_EPOCH = b"e" * 16, b"o" * 16
PAIR = Pair(SETTLEMENT, ALICE.address, BOB.address)
amounts = st.integers(0, 10**6)
accounts = st.builds(lambda debit, more, n: Account(debit + more, debit, n), amounts, amounts, st.integers(0, 9))


@given(accounts, amounts)
def test_a_debit_never_passes_the_credit(account: Account, amount: int) -> None:
    if amount > account.balance:
        with pytest.raises(Refused) as refused:
            account.debited(amount)
        assert (refused.value.have, refused.value.need) == (account.balance, amount)
    else:
        assert account.debited(amount).balance == account.balance - amount


@pytest.mark.parametrize(("credit", "debit"), [(1, 2), (-1, -1), (MAX_WEI + 1, 0)])
def test_impossible_accounts_are_bugs(credit: int, debit: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Account(credit, debit)


@given(st.lists(accounts, min_size=1, max_size=6), st.randoms())
def test_statements_in_any_order_leave_the_newest(history: list[Account], shuffle) -> None:  # type: ignore[no-untyped-def]
    grown = [Account(sum(a.credit for a in history[:n]), 0, n) for n in range(1, len(history) + 1)]
    statements = [PAIR.statement(a, EPOCH) for a in grown]
    shuffle.shuffle(statements)
    kept = None
    for statement in statements:
        news = compare(kept, statement)
        assert news is not News.ROLLED_BACK
        kept = statement if news is News.NEWER else kept
    assert kept == PAIR.statement(grown[-1], EPOCH)


def test_only_a_contradiction_is_a_rollback() -> None:
    kept = PAIR.statement(Account(10, 5, 7), EPOCH)
    assert compare(kept, PAIR.statement(Account(9, 5, 6), EPOCH)) is News.OLD
    assert compare(kept, PAIR.statement(Account(9, 5, 8), EPOCH)) is News.ROLLED_BACK
    assert compare(kept, PAIR.statement(Account(10, 4, 8), EPOCH)) is News.ROLLED_BACK
    assert compare(kept, PAIR.statement(Account(11, 5, 1), OTHER_EPOCH)) is News.NEWER
    assert compare(kept, PAIR.statement(Account(9, 0, 1), OTHER_EPOCH)) is News.ROLLED_BACK


@given(accounts, accounts, accounts)
def test_an_adopted_account_is_adopted_once(ours: Account, lost: Account, since: Account) -> None:
    proof = PAIR.statement(lost, OTHER_EPOCH)
    first = adopted(ours, EPOCH, (0, 0), proof)
    assert first == (
        None if lost.credit == 0 else Account(ours.credit + lost.credit, ours.debit + lost.debit, ours.sequence)
    )
    assert adopted(first or ours, EPOCH, (lost.credit, lost.debit), proof) is None
    mine = adopted(ours, EPOCH, (0, 0), PAIR.statement(since, EPOCH))
    if since.sequence <= ours.sequence:
        assert mine is None
    else:
        assert mine is not None
        assert mine.credit >= max(ours.credit, since.credit)
        assert mine.debit >= max(ours.debit, since.debit)


@given(st.lists(st.booleans(), max_size=60))
def test_standing_doubles_and_falls(deliveries: list[bool]) -> None:
    standing, streak = Standing(), 0
    for delivered in deliveries:
        standing = standing.after_delivery() if delivered else standing.after_fault()
        streak = streak + 1 if delivered else 0
        assert standing.limit(3) == 3 * 2 ** min(streak, 20)
    assert standing.delivered == sum(deliveries)


@given(st.integers(0, ETH), st.integers(0, ETH), st.none() | st.integers(0, 100 * ETH))
def test_face_value_rule(value: int, cost: int, income: int | None) -> None:
    face = face_value_for(value, cost, income)
    assert face >= 4 * value
    assert face >= 5 * cost, "redemption never costs above 20 %"
    if face < 20 * cost:
        assert income is not None
        assert income < 10 * 20 * cost, "above 5 % only when a month would hold fewer than ten wins"


def test_without_costs_one_ticket_in_four_wins() -> None:
    assert face_value_for(250, 0) == 1000
    assert face_value_for(0, 7) == 140
    assert face_value_for(1, 100, 10_000) == 1000
    assert face_value_for(1, 100, 1_000) == 500


def issue(secret: bytes = b"s" * 32, sender: bytes = ALICE.address, room: int = ETH, **more: int) -> TicketParams:
    fields = {"value": 1000, "now_ms": 10**12} | more
    return Recipient(SETTLEMENT, BOB.address, secret).issue(
        sender,  # type: ignore[arg-type]
        fields["value"],
        terms=ReceivingTerms(5000),
        room=room,
        round_=Round(3, b"r" * 32),
        now_ms=fields["now_ms"],
        chance=bytes([more.get("chance", 0)]) * 20,
    )


def test_a_rand_hangs_on_everything_that_was_issued() -> None:
    ids = {
        p.params_id
        for p in (
            issue(),
            issue(b"t" * 32),
            issue(sender=MALLORY.address),
            issue(value=1001),
            issue(now_ms=5),
            issue(chance=1),
        )
    }
    assert len(ids) == 6
    assert issue() == issue()
    recipient = Recipient(SETTLEMENT, BOB.address, b"s" * 32)
    assert keccak256(recipient.rand_of(issue(), ALICE.address)) == issue().rand_hash


@given(st.integers(1, 10**6), st.integers(0, 10**7))
def test_params_fit_the_room_or_are_refused(value: int, room: int) -> None:
    if room < value:
        with pytest.raises(Refused, match="SENDER_UNFUNDED"):
            issue(value=value, room=room)
    else:
        params = issue(value=value, room=room)
        assert params.value == value <= params.face_value <= room


def test_params_outlive_the_senders_clock_by_one_life() -> None:
    assert first_use(issue(now_ms=1000), ALICE.address) == ParamsUse(ALICE.address, 11_000)
