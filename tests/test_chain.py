"""The chain client and the wallet: what is known without waiting, and what funding does."""

from __future__ import annotations

import stat

import pytest
import trio

from ledger.broker import BrokerTerms
from ledger.chain import Chain
from ledger.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ledger.cover import NO_COVER, Cover
from ledger.money import Settlement
from ledger.rpc import RpcRefused
from ledger.transactor import Patience
from ledger.wallet import Wallet
from p2p.errors import Misconfigured, Unavailable
from p2p.peer import Address
from tests.contracts.chains import CHAIN_ID, ETHER, START, Clock, direct, key, signed, ticket_of

ALICE, BOB = key(1), key(2)
TERMS = BrokerTerms(100, 4, 4)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rpc(clock):
    return direct(TERMS, clock)


async def connected(rpc, clock, **more):
    return await Chain.over(rpc, clock=lambda: clock() * 1000, **more)


async def test_what_was_asked_once_is_kept_up_to_date(rpc, clock, autojump_clock):
    chain = await connected(rpc, clock)
    assert chain.settlement == rpc.chain.settlement
    assert chain.development
    assert chain.terms == TERMS
    assert chain.deposit_of(ALICE.address) is NO_COVER
    wallet = Wallet(chain, ALICE)
    await wallet.ensure_funded(1000, 500, 100)
    assert chain.deposit_of(ALICE.address) == Cover(1000, 500, 0, START * 1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(chain.run)
        await Wallet(await connected(rpc, clock), ALICE).fund(7, 0)  # somebody else's view of the same chain
        await trio.sleep(3)
        assert chain.deposit_of(ALICE.address).deposit == 1007
        clock.now += 30
        await trio.sleep(3)
        assert chain.deposit_of(ALICE.address).known_at_ms == (START + 30) * 1000
        nursery.cancel_scope.cancel()


async def test_ensure_funded_adds_only_what_is_missing(rpc, clock, autojump_clock):
    chain = await connected(rpc, clock)
    wallet = Wallet(chain, ALICE)
    await wallet.ensure_funded(1000, 0)
    sent = rpc.asked.count("eth_sendRawTransaction")
    await wallet.ensure_funded(1000, 0)
    assert rpc.asked.count("eth_sendRawTransaction") == sent
    await wallet.ensure_funded(1200, 3)
    assert chain.deposit_of(ALICE.address) == Cover(1200, 3, 0, START * 1000)
    with pytest.raises(Misconfigured, match="faucet gives at most"):
        await wallet.ensure_funded(2000 * ETHER)


async def test_elsewhere_nobody_funds_itself_and_the_shortfall_is_exact(clock):
    rpc = direct(TERMS, clock, chain_id=10)
    chain = await Chain.over(rpc, rpc.chain.settlement.broker)
    assert not chain.development
    with pytest.raises(Misconfigured, match=r"lacks 1100 wei in the broker.* after sending it 1150 wei"):
        await Wallet(chain, ALICE).ensure_funded(1000, 100, 50)
    with pytest.raises(Misconfigured, match="lacks 50 wei for gas"):
        await Wallet(chain, ALICE).ensure_funded(0, 0, 50)
    assert "pasar_fund" not in rpc.asked


async def test_money_that_may_leave_soon_counts_for_nothing(rpc, clock, autojump_clock):
    chain = await connected(rpc, clock)
    wallet = Wallet(chain, ALICE)
    await wallet.ensure_funded(1000, 500)
    await wallet.unlock()
    leaves = START // 100 + 4
    assert chain.deposit_of(ALICE.address) == Cover(1000, 500, leaves, START * 1000)
    clock.now += 300
    await chain.refresh()
    assert chain.deposit_of(ALICE.address).total == 0
    await wallet.cancel_unlock()
    assert chain.deposit_of(ALICE.address).total == 1500
    await wallet.unlock()
    clock.now += 400
    await wallet.withdraw()
    assert chain.deposit_of(ALICE.address) == Cover(0, 0, 0, clock.now * 1000)


async def test_rounds_go_stale_and_are_opened_again(rpc, clock, autojump_clock):
    chain = await connected(rpc, clock)
    first = chain.round_now()
    assert first is not None
    assert (first.number, first.validity) == (START // 100, 4)
    clock.now += 200
    await chain.refresh()
    assert chain.round_now() == first
    assert not chain.round_is_stale
    clock.now += 100
    await chain.refresh()
    assert chain.round_is_stale
    assert chain.round_now() is None  # what is left of its time is too short for a new ticket
    wallet = Wallet(chain, ALICE)
    await wallet.ensure_funded(0, 0, 1)
    await wallet.initialize_round()
    again = chain.round_now()
    assert again is not None
    assert again.number == first.number + 3
    assert again.block_hash != first.block_hash


async def test_redeeming_and_earnings(rpc, clock, autojump_clock):
    chain = await connected(rpc, clock)
    sender, helper = Wallet(chain, ALICE), Wallet(chain, BOB)
    await sender.ensure_funded(100)
    await helper.ensure_funded(0, 0, 10**9)
    round_ = chain.round_now()
    assert round_ is not None
    made = [ticket_of(ALICE.address, BOB.address, 40, (round_.number, round_.block_hash), nonce=n) for n in range(1, 4)]
    winners = [signed(ticket, rand, ALICE) for ticket, rand in made]
    assert await chain.rehearse(winners) == [None] * 3
    redeemed = await helper.redeem(winners)
    assert [redeemed.has(w) for w in winners] == [True, True, False]
    assert redeemed.mined.cost > 0
    assert [str(r and r.text) for r in await chain.rehearse(winners)] == [
        "ticket is used",
        "ticket is used",
        "sender deposit and reserve insufficient to cover ticket face value",
    ]
    assert await chain.fees_of(BOB.address) == 80
    cold = Address(b"\xcd" * 20)
    await helper.withdraw_fees(cold, 80)
    assert await chain.balance_of(cold) == 80


async def test_a_node_starts_and_knows_while_its_chain_is_away(rpc, clock, tmp_path, autojump_clock):
    file = tmp_path / "chain.json"
    chain = await connected(rpc, clock, checkpoint=file)
    await Wallet(chain, ALICE).ensure_funded(1000)
    rpc.down = True
    with pytest.raises(Unavailable):
        await chain.refresh()
    assert not chain.online
    assert chain.deposit_of(ALICE.address).deposit == 1000
    again = await connected(rpc, clock, checkpoint=file)
    assert not again.online
    assert again.settlement == chain.settlement
    assert again.deposit_of(ALICE.address) == chain.deposit_of(ALICE.address)
    assert again.round_now() == chain.round_now()
    with pytest.raises(Unavailable):
        await connected(rpc, clock)
    with pytest.raises(Unavailable):
        await connected(rpc, clock, broker=Address(b"\x01" * 20), checkpoint=file)
    rpc.down = False
    await again.refresh()
    assert again.online


async def test_another_chain_at_the_same_place_changes_nothing(rpc, clock, tmp_path, autojump_clock):
    file = tmp_path / "chain.json"
    chain = await connected(rpc, clock, checkpoint=file)
    await Wallet(chain, ALICE).ensure_funded(1000)
    rpc.chain = direct(TERMS, clock, chain_id=CHAIN_ID + 1).chain
    with pytest.raises(Unavailable, match="another chain"):
        await chain.refresh()
    assert chain.deposit_of(ALICE.address).deposit == 1000
    fresh = await connected(rpc, clock, checkpoint=file)
    assert fresh.settlement != chain.settlement
    assert fresh.deposit_of(ALICE.address).total == 0  # nothing of the other settlement is carried over


async def test_a_long_gap_is_read_anew(rpc, clock, autojump_clock, monkeypatch):
    monkeypatch.setattr("ledger.chain.MAX_BLOCKS", 20)
    chain = await connected(rpc, clock)
    other = await connected(rpc, clock)
    await Wallet(chain, ALICE).ensure_funded(1000)
    await other.cover_of(ALICE.address)
    await Wallet(chain, ALICE).fund(1, 0)
    for _ in range(60):
        rpc.chain.mine()
    await other.refresh()
    assert other.deposit_of(ALICE.address).deposit == 1001


async def test_a_node_that_keeps_its_logs_to_itself_still_serves(rpc, clock, autojump_clock):
    chain = await connected(rpc, clock)
    await Wallet(chain, ALICE).ensure_funded(1000)
    real = rpc.batch

    async def batch(calls):
        answers = await real(calls)
        methods = [method for method, _ in calls]
        return [RpcRefused(-32005, "range") if m == "eth_getLogs" else a for m, a in zip(methods, answers, strict=True)]

    rpc.batch = batch
    await Wallet(await connected(rpc, clock), ALICE).fund(5, 0)
    await chain.refresh()
    assert chain.deposit_of(ALICE.address).deposit == 1005


async def test_what_is_no_broker_is_a_mistake_of_the_operator(rpc, clock):
    with pytest.raises(Misconfigured, match="no broker at"):
        await connected(rpc, clock, broker=Address(b"\x01" * 20))
    real = rpc.batch

    async def batch(calls):
        if calls[0][0] == "pasar_settlement":
            return [RpcRefused(-32601, "no such method")]
        return await real(calls)

    rpc.batch = batch
    with pytest.raises(Misconfigured, match="--broker"):
        await connected(rpc, clock)


@pytest.mark.parametrize("nonsense", ["0x", "0x12", None, 7, "zz", {"a": 1}])
async def test_nonsense_from_a_node_is_unavailability(rpc, clock, nonsense):
    chain = await connected(rpc, clock)
    real = rpc.batch

    async def batch(calls):
        return [
            nonsense if method == "eth_call" else a for (method, _), a in zip(calls, await real(calls), strict=True)
        ]

    rpc.batch = batch
    with pytest.raises(Unavailable):
        await chain.refresh([ALICE.address])
    assert chain.round_now() is not None


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "deep" / "chain.json"
    known = Checkpoint(
        Settlement(CHAIN_ID, Address(b"\x0b" * 20)), TERMS, 5, 6, 7, b"\x08" * 32, {ALICE.address: Cover(1, 2, 3, 4)}
    )
    write_checkpoint(file, known)
    assert read_checkpoint(file) == known
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (file.with_name(file.name + ".new")).write_text("of a process that was killed")
    write_checkpoint(file, known)
    assert read_checkpoint(file) == known
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 2}', "[" * 500, '{"version": 1, "terms": 5}'])
def test_a_broken_checkpoint_is_none(tmp_path, text):
    file = tmp_path / "chain.json"
    file.write_text(text)
    assert read_checkpoint(file) is None
    assert read_checkpoint(tmp_path / "missing.json") is None


def test_patience_depends_on_whether_money_is_real():
    assert Patience.of(CHAIN_ID).confirmations == 0
    assert Patience.of(42161).confirmations > 0
