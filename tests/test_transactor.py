"""Transactions of one key: nonces, fees, restarts, nodes that fail."""

from __future__ import annotations

import pytest
import trio

from ledger.broker import Reverted
from ledger.contract import call_data
from ledger.journal import Journal
from ledger.money import GWEI
from ledger.rpc import RpcRefused
from ledger.transaction_rows import JournalTransactions
from ledger.transactions import Call
from ledger.transactor import MAX_FEE, Patience, Transactor, mined_of, refusal_of
from ledger.txstore import MemoryTransactions, SentTransaction
from p2p.errors import Refused, Unavailable
from p2p.peer import Address
from tests.contracts.chains import CHAIN_ID, ETHER, direct, key

ALICE = key(1)
TO = Address(b"\x22" * 20)
QUICK = Patience(poll=0.25, bump_after=5, give_up=20, confirmations=0)


def funded(chain_id=CHAIN_ID):
    rpc = direct(chain_id=chain_id)
    rpc.chain.evm.fund(ALICE.address, ETHER)
    rpc.chain.mine()
    return rpc


def transactor(rpc, store=None, patience=QUICK, chain_id=CHAIN_ID):
    return Transactor(rpc, chain_id, ALICE, store or MemoryTransactions(), patience)


async def test_transactions_follow_each_other(autojump_clock):
    rpc = funded()
    sender = transactor(rpc)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(sender.send, Call(TO, b"", 5))
    assert rpc.chain.evm.balance_of(TO) == 15
    assert rpc.chain.evm.nonce_of(ALICE.address) == 3


async def test_a_revert_is_found_before_anything_is_sent(autojump_clock):
    rpc = funded()
    broker = rpc.chain.settlement.broker
    with pytest.raises(Reverted) as caught:
        await transactor(rpc).send(Call(broker, call_data("unlock")))
    assert caught.value.text == "sender deposit and reserve are zero"
    assert "eth_sendRawTransaction" not in rpc.asked


async def test_a_failure_on_chain_is_a_revert_and_uses_its_nonce(autojump_clock):
    rpc = funded()
    store = MemoryTransactions()
    sender = transactor(rpc, store)
    with pytest.raises(Reverted, match="failed on chain"):
        await sender.send(Call(rpc.chain.settlement.broker, call_data("unlock"), 0, 100_000))
    assert await store.next_nonce(CHAIN_ID, ALICE.address) == 1
    await sender.send(Call(TO, b"", 1))
    assert rpc.chain.evm.balance_of(TO) == 1


async def test_missing_gas_money_is_named_in_wei():
    rpc = direct()
    with pytest.raises(Refused) as caught:
        await transactor(rpc).send(Call(TO, b"", 0, 21_000))
    assert caught.value.code == "GAS_MONEY"
    assert caught.value.have == 0
    assert caught.value.need > 0


async def test_a_lost_answer_sends_no_second_payment(autojump_clock):
    rpc = funded()
    lost = 0

    real = rpc.batch

    async def batch(calls):
        nonlocal lost
        answers = await real(calls)
        if calls[0][0] == "eth_sendRawTransaction" and lost < 2:
            lost += 1
            raise Unavailable("the line went dead after the node took it")
        return answers

    rpc.batch = batch
    await transactor(rpc).send(Call(TO, b"", 5))
    assert lost == 1
    assert rpc.chain.evm.balance_of(TO) == 5


async def test_a_transaction_that_waits_too_long_is_bumped_under_its_nonce(autojump_clock):
    rpc = funded()
    rpc.mining = False
    store = MemoryTransactions()
    fees = []

    def watch(method):
        if method == "eth_sendRawTransaction":
            fees.append(max(s.raw for s in store.sent.values()))
            if len(store.sent) == 3:
                rpc.mining = True

    rpc.before = watch
    await transactor(rpc, store).send(Call(TO, b"", 5))
    assert {s.nonce for s in store.sent.values()} == {0}
    assert len(store.sent) == 3
    assert rpc.chain.evm.balance_of(TO) == 5
    assert not await store.open_transactions(CHAIN_ID, ALICE.address)


async def test_after_a_crash_what_was_under_way_is_finished_first(autojump_clock):
    rpc = funded()
    store = MemoryTransactions()
    with pytest.raises(Unavailable):  # the process dies right after it wrote the transaction down
        await dying(rpc, store)
    (open_one,) = await store.open_transactions(CHAIN_ID, ALICE.address)
    assert rpc.chain.evm.balance_of(TO) == 0
    again = transactor(rpc, store)
    await again.finish_open()
    assert rpc.chain.evm.receipt(open_one.hash) is not None
    assert rpc.chain.evm.balance_of(TO) == 5
    await again.send(Call(TO, b"", 1))
    assert rpc.chain.evm.balance_of(TO) == 6


async def dying(rpc, store):
    class Dies(MemoryTransactions):
        async def record(self, sent: SentTransaction) -> None:
            await store.record(sent)
            raise Unavailable("killed")

    await transactor(rpc, Dies()).send(Call(TO, b"", 5))


async def test_a_refused_transaction_leaves_no_gap(autojump_clock):
    rpc = funded()
    store = MemoryTransactions()
    sender = transactor(rpc, store)
    real = rpc.batch

    async def batch(calls):
        if calls[0][0] == "eth_sendRawTransaction":
            return [RpcRefused(-32000, "txpool is full")]
        return await real(calls)

    rpc.batch = batch
    with pytest.raises(RpcRefused):
        await sender.send(Call(TO, b"", 5))
    rpc.batch = real
    assert not await store.open_transactions(CHAIN_ID, ALICE.address)
    await sender.send(Call(TO, b"", 5))
    assert rpc.chain.evm.balance_of(TO) == 5


async def test_another_program_with_the_same_key_costs_a_retry_and_no_more(autojump_clock):
    rpc = funded()
    sender = transactor(rpc)
    taken = False

    def race(method):
        nonlocal taken
        if method == "eth_sendRawTransaction" and not taken:
            taken = True
            rpc.chain.evm.send_as(ALICE, Call(TO, b"", 100, 21_000))
            rpc.chain.mine()

    rpc.before = race
    with pytest.raises(Unavailable, match="another program"):
        await sender.send(Call(TO, b"", 5))
    await sender.send(Call(TO, b"", 5))
    assert rpc.chain.evm.balance_of(TO) == 105


async def test_elsewhere_a_receipt_counts_only_when_it_is_deep_enough(autojump_clock):
    rpc = funded(chain_id=10)
    looks = 0

    def mine(method):
        nonlocal looks
        if method == "eth_getTransactionReceipt":
            looks += 1
            rpc.chain.mine()

    rpc.before = mine
    patience = Patience(1, 30, 60, confirmations=4)
    mined = await transactor(rpc, patience=patience, chain_id=10).send(Call(TO, b"", 5))
    assert rpc.chain.evm.number - mined.block >= 4
    assert looks >= 4


async def test_a_fee_above_the_cap_is_refused(autojump_clock):
    rpc = funded()
    real = rpc.batch

    async def batch(calls):
        if calls[0][0] == "eth_feeHistory":
            return [{"baseFeePerGas": [hex(MAX_FEE + 1)], "reward": []}]
        return await real(calls)

    rpc.batch = batch
    with pytest.raises(Refused) as caught:
        await transactor(rpc).send(Call(TO, b"", 5, 21_000))
    assert caught.value.code == "FEE_TOO_HIGH"
    assert caught.value.have == 500 * GWEI


def test_a_receipt_s_cost_includes_the_data_fee():
    receipt = {
        "transactionHash": "0x" + "11" * 32, "blockNumber": "0x5", "gasUsed": "0x64", "effectiveGasPrice": "0x2",
        "l1Fee": "0xa", "status": "0x1", "logs": [],
    }  # fmt: skip
    assert mined_of(receipt).cost == 210


@pytest.mark.parametrize(
    ("number", "text", "kind"),
    [
        (3, "execution reverted: ticket is used", Reverted),
        (-32000, "VM Exception while processing transaction: execution reverted", Reverted),
        (-32000, "insufficient funds for gas * price + value", Refused),
        (-32601, "no such method", RpcRefused),
    ],
)
def test_what_a_node_s_error_means(number, text, kind):
    assert type(refusal_of(RpcRefused(number, text))) is kind


@pytest.mark.parametrize("durable", [False, True])
async def test_every_store_remembers_alike(durable, tmp_path):
    async with trio.open_nursery() as nursery:
        if durable:
            journal = Journal(tmp_path / "journal.db")
            await nursery.start(journal.run)
            store = JournalTransactions(journal)
        else:
            store = MemoryTransactions()
        await check_store(store)
        nursery.cancel_scope.cancel()


async def check_store(store):
    me, other = ALICE.address, TO
    sent = [SentTransaction(CHAIN_ID, me, nonce, bytes([nonce, n])) for nonce, n in ((0, 0), (0, 1), (1, 0), (2, 0))]
    for one in sent:
        await store.record(one)
        await store.record(one)
    assert [s.raw for s in await store.open_transactions(CHAIN_ID, me)] == [s.raw for s in sent]
    assert not await store.open_transactions(CHAIN_ID, other)
    assert not await store.open_transactions(CHAIN_ID + 1, me)
    assert await store.next_nonce(CHAIN_ID, me) == 0
    await store.end(sent[1], mined=True)
    assert [s.nonce for s in await store.open_transactions(CHAIN_ID, me)] == [1, 2]
    assert await store.next_nonce(CHAIN_ID, me) == 1
    await store.end(sent[2], mined=False)
    assert await store.next_nonce(CHAIN_ID, me) == 1
    assert [s.nonce for s in await store.open_transactions(CHAIN_ID, me)] == [2]
    await store.record(sent[2])  # the same bytes, tried again
    assert [s.nonce for s in await store.open_transactions(CHAIN_ID, me)] == [1, 2]
