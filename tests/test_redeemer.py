"""Redemption: its rules, and the redeemer against the real contract, with restarts in between."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given

from ledger.broker import BrokerTerms
from ledger.chain import Chain
from ledger.redeemer import Redeemer
from ledger.redemption import MAX_BATCH, Costs, Outcome, batch_of, outcome_of
from ledger.ticket import Ticket, Winner
from ledger.wallet import Wallet
from p2p.errors import Refused, Unavailable
from tests.contracts.chains import START, Clock, direct, key, signed, ticket_of

ALICE, BOB = key(1), key(2)
TERMS = BrokerTerms(100, 8, 8)
ROUND = START // 100


@dataclass
class Kept:
    """Winners in memory, with the journal's promise: confirmed never changes."""

    state: dict[bytes, str] = field(default_factory=dict)
    winner: dict[bytes, Winner] = field(default_factory=dict)
    reasons: dict[bytes, str] = field(default_factory=dict)

    def add(self, *winners: Winner) -> None:
        for w in winners:
            self.winner[w.ticket_hash], self.state[w.ticket_hash] = w, "pending"

    async def winners(self, most: int = 100, *, submitted: bool = False) -> tuple[Winner, ...]:
        wanted = "submitted" if submitted else "pending"
        return tuple(self.winner[h] for h, s in self.state.items() if s == wanted)[:most]

    async def submitting(self, hashes, tx_hash=b""):
        self._move(hashes, "submitted")

    async def confirmed(self, hashes, tx_hash):
        self._move(hashes, "confirmed")

    async def retry(self, hashes):
        self._move(hashes, "pending")

    async def failed(self, hashes, reason):
        self.reasons.update(dict.fromkeys(hashes, reason))
        self._move(hashes, "failed")

    def _move(self, hashes, state):
        for h in hashes:
            assert self.state[h] not in ("confirmed", "failed")
            self.state[h] = state

    def states(self) -> list[str]:
        return list(self.state.values())


class World:
    """Alice has funded, Bob redeems."""

    def __init__(self) -> None:
        self.clock, self.kept = Clock(), Kept()
        self.rpc = direct(TERMS, self.clock)

    async def start(self, deposit: int = 10**15) -> World:
        self.chain = await Chain.over(self.rpc, clock=lambda: self.clock() * 1000)
        await Wallet(self.chain, ALICE).ensure_funded(deposit)
        self.wallet = Wallet(self.chain, BOB)
        await self.wallet.ensure_funded(0, 0, 10**12)
        self.redeemer = Redeemer(self.chain, self.wallet, self.kept)
        return self

    def win(self, nonce: int, face: int = 10**10) -> Winner:
        round_ = self.chain.round_now()
        assert round_ is not None
        ticket, rand = ticket_of(ALICE.address, BOB.address, face, (round_.number, round_.block_hash), nonce=nonce)
        made = signed(ticket, rand, ALICE)
        self.kept.add(made)
        return made

    def sent(self) -> int:
        return self.rpc.asked.count("eth_sendRawTransaction")


@pytest.fixture
async def world(autojump_clock):
    return await World().start()


async def test_winners_are_redeemed_in_one_transaction(world):
    before = world.sent()
    for nonce in range(1, 6):
        world.win(nonce)
    assert world.redeemer.redemption_cost() == 0
    assert await world.redeemer.redeem_due() == 5
    assert world.sent() == before + 1
    assert world.kept.states() == ["confirmed"] * 5
    assert await world.chain.fees_of(BOB.address) == 5 * 10**10
    cost = world.redeemer.redemption_cost()
    assert 0 < cost < 7 * 110_000
    assert await world.redeemer.redeem_due() == 0
    assert world.sent() == before + 1


async def test_bad_winners_end_and_do_not_hold_up_good_ones(world):
    good = world.win(1)
    forged = world.win(2)
    bad = replace(forged, signature=signed(forged.ticket, forged.rand, BOB).signature)
    world.kept.winner[forged.ticket_hash] = bad
    assert await world.redeemer.redeem_due() == 1
    assert world.kept.state[good.ticket_hash] == "confirmed"
    assert world.kept.state[forged.ticket_hash] == "failed"
    assert "invalid signature" in world.kept.reasons[forged.ticket_hash]


async def test_what_somebody_else_redeemed_for_us_is_paid(world):
    won = world.win(1)
    other = Wallet(world.chain, key(3))
    await other.ensure_funded(0, 0, 10**12)
    await other.redeem([won])
    assert await world.redeemer.redeem_due() == 0
    assert world.kept.states() == ["confirmed"]


async def test_a_ticket_without_cover_waits_for_the_sender(world, autojump_clock):
    large = world.win(1, face=2 * 10**15)
    small = world.win(2)
    assert await world.redeemer.redeem_due() == 1
    assert world.kept.state[large.ticket_hash] == "pending"
    assert world.kept.state[small.ticket_hash] == "confirmed"
    asked = len(world.rpc.asked)
    assert await world.redeemer.redeem_due() == 0
    assert "eth_call" not in world.rpc.asked[asked:]  # not asked again at once
    await Wallet(world.chain, ALICE).fund(2 * 10**15, 0)
    await trio.sleep(31)
    assert await world.redeemer.redeem_due() == 1
    assert world.kept.state[large.ticket_hash] == "confirmed"


async def test_what_the_deposit_pays_only_in_part_is_paid_ticket_by_ticket(world):
    for nonce in (1, 2, 3):
        world.win(nonce, face=4 * 10**14)
    assert await world.redeemer.redeem_due() == 2
    assert sorted(world.kept.states()) == ["confirmed", "confirmed", "pending"]


async def test_expired_tickets_end(world):
    tiny = world.win(1, face=1)
    assert await world.redeemer.redeem_due() == 0
    assert world.kept.states() == ["pending"]
    world.clock.now += 800
    await world.chain.refresh()
    assert await world.redeemer.redeem_due() == 0
    assert world.kept.reasons[tiny.ticket_hash] == "ticket is expired"


@pytest.mark.parametrize("mined", [True, False])
async def test_a_restart_after_sending_neither_loses_nor_repeats(world, mined):
    world.win(1)
    real = world.rpc.batch

    async def dying(calls):
        if calls[0][0] == "eth_sendRawTransaction":
            if mined:
                await real(calls)
            raise RuntimeError("the process dies here")
        return await real(calls)

    world.rpc.batch = dying
    with pytest.raises(RuntimeError):
        await world.redeemer.redeem_due()
    world.rpc.batch = real
    assert world.kept.states() == ["submitted"]
    again = Redeemer(world.chain, Wallet(world.chain, BOB), world.kept)
    assert await again.redeem_due() == (0 if mined else 1)
    assert world.kept.states() == ["confirmed"]
    assert await world.chain.fees_of(BOB.address) == 10**10


async def test_the_chain_s_absence_costs_time_only(world, autojump_clock):
    world.win(1)
    world.rpc.down = True
    with pytest.raises(Unavailable):
        await world.redeemer.redeem_due()
    assert world.kept.states() == ["pending"]
    async with trio.open_nursery() as nursery:
        await nursery.start(world.redeemer.run)
        await trio.sleep(20)
        assert world.kept.states() == ["pending"]
        world.rpc.down = False
        await trio.sleep(120)
        assert world.kept.states() == ["confirmed"]
        nursery.cancel_scope.cancel()


async def test_without_gas_money_winners_wait(world):
    world.win(1)
    poor = Redeemer(world.chain, Wallet(world.chain, key(9)), world.kept)
    with pytest.raises(Refused) as caught:
        await poor.redeem_due()
    assert caught.value.code == "GAS_MONEY"
    assert world.kept.states() == ["pending"]


async def test_a_stale_round_is_opened(world, autojump_clock):
    world.clock.now += 500
    await world.chain.refresh()
    assert world.chain.round_is_stale
    await world.redeemer.keep_round_fresh()
    assert not world.chain.round_is_stale


# --- the rules


def unsigned(face: int, round_: int = ROUND) -> Winner:
    return Winner(Ticket(BOB.address, ALICE.address, face, 1, 1, bytes(32), round_, bytes(32)), b"", b"", 0)


def test_costs_follow_receipts_and_before_them_gas():
    costs = Costs().at_price(10)
    assert costs.expected() == 10 * 110_000
    costs = costs.after(1000, 10)
    assert costs.expected() == 100
    assert costs.after(2000, 10).expected() == 125
    assert costs.after(5, 0).expected() == 77


@given(st.lists(st.integers(0, 10**9), max_size=80), st.integers(0, 1000), st.integers(0, 7))
def test_a_batch_is_always_worth_its_gas(faces, price, age):
    costs = Costs(price)
    winners = [unsigned(face) for face in faces]
    batch = batch_of(winners, costs, ROUND + age, 8)
    assert len(batch) <= MAX_BATCH
    assert all(w in winners for w in batch)
    if batch:
        assert sum(w.ticket.face_value for w in batch) > costs.of(len(batch)) or len(batch) == MAX_BATCH


def test_few_tickets_wait_for_company_until_time_is_short():
    costs = Costs(1)
    one = unsigned(2 * costs.of(1))
    assert batch_of([one], costs, ROUND, 8) == ()
    assert batch_of([one], costs, ROUND + 6, 8) == (one,)
    assert batch_of([one, unsigned(10 * costs.of(2))], costs, ROUND, 8)


def test_those_nearest_to_their_end_go_first():
    winners = [unsigned(10**9, ROUND + n % 7) for n in range(MAX_BATCH + 20)]
    batch = batch_of(winners, Costs(1), ROUND + 6, 8)
    assert len(batch) == MAX_BATCH
    last = max(w.ticket.creation_round for w in batch)
    left_out = [w for w in winners if w not in batch]
    assert all(w.ticket.creation_round >= last for w in left_out)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (None, Outcome.READY),
        ("ticket is used", Outcome.PAID),
        ("sender is unlocked", Outcome.WAIT),
        ("sender deposit and reserve insufficient to cover ticket face value", Outcome.WAIT),
        ("ticket is expired", Outcome.DEAD),
        ("ECDSA: invalid signature 's' value", Outcome.DEAD),
        ("ticket creationRoundBlockHash invalid for creationRound", Outcome.DEAD),
        ("the node is on fire", Outcome.WAIT),
    ],
)
def test_what_the_broker_s_words_mean(reason, outcome):
    assert outcome_of(reason) is outcome
