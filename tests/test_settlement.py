"""The whole way of a wei: funded on chain, signed as tickets, won, redeemed, withdrawn; over real journals."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from ledger.broker import BrokerTerms
from ledger.chain import Chain
from ledger.journal import Journal
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from ledger.redeemer import Redeemer
from ledger.sending import SendingBooks
from ledger.ticket import payment_id
from ledger.transaction_rows import JournalTransactions
from ledger.wallet import Wallet
from p2p.errors import Refused
from tests.contracts.chains import ETHER, Clock, direct, key

SENDER, RECIPIENT = key(1), key(2)
PRICE = 10**12
JOBS = 5


class Node:
    """One end: its key, its journal, its view of the chain."""

    def __init__(self, world: World, who, name: str) -> None:
        self.world, self.who = world, who
        self.journal = Journal(world.folder / f"{name}.db")

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(self.journal.run)
        self.chain = await Chain.over(self.world.rpc, clock=lambda: self.world.clock() * 1000)
        self.wallet = Wallet(self.chain, self.who, JournalTransactions(self.journal, wall_time=self.world.clock))


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.rpc = direct(BrokerTerms(), self.clock)


async def receiving_of(node: Node, cost: int) -> ReceivingBooks:
    terms = ReceivingTerms(lives_for_ms=5000, redemption_cost=cost)
    settlement = node.chain.settlement
    chances = iter(range(10**6))
    books = ReceivingBooks(
        node.journal, node.who, settlement, terms, node.chain, wall_time=node.world.clock,
        chance=lambda size: next(chances).to_bytes(size, "big"),
    )  # fmt: skip
    await books.load()
    return books


@pytest.mark.parametrize("restart", [False, True])
async def test_every_wei_arrives(tmp_path, restart):
    world = World(tmp_path)
    gateway, seller = Node(world, SENDER, "gateway"), Node(world, RECIPIENT, "seller")
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node in (gateway, seller):
            await node.start(nursery)
        await gateway.wallet.ensure_funded(ETHER, ETHER // 10)
        await seller.wallet.ensure_funded(0, 0, 10**14)
        sending = SendingBooks(gateway.journal, SENDER, gateway.chain.settlement, gateway.chain, wall_time=world.clock)
        await sending.load()
        receiving = await receiving_of(seller, 0)
        redeemer = Redeemer(seller.chain, seller.wallet, receiving)
        await redeemer.redeem_due()
        receiving = await receiving_of(seller, redeemer.redemption_cost())
        with pytest.raises(Refused):  # the seller has not looked at this sender's deposit yet
            await receiving.params_for(SENDER.address, PRICE)
        await seller.chain.cover_of(SENDER.address)
        for job in range(JOBS):
            await one_job(sending, receiving, b"%032d" % job, certain=job == JOBS - 1)
        assert sending.credit_with(RECIPIENT.address) == receiving.credit_of(SENDER.address) == 0
        world.clock.now += 11
        wins = await receiving.won()
        assert wins >= 1
        if restart:
            redeemer = Redeemer(seller.chain, seller.wallet, await receiving_of(seller, 10))
        while await redeemer.redeem_due():
            pass
        assert await receiving.winners(submitted=False) == await receiving.winners(submitted=True) == ()
        earned = await seller.chain.fees_of(RECIPIENT.address)
        await gateway.chain.refresh()
        cover = gateway.chain.deposit_of(SENDER.address)
        assert earned > 0
        assert cover.deposit + earned == ETHER
        had = await seller.chain.balance_of(RECIPIENT.address)
        mined = await seller.wallet.withdraw_fees(RECIPIENT.address, earned)
        assert await seller.chain.balance_of(RECIPIENT.address) == had + earned - mined.cost
        nursery.cancel_scope.cancel()


async def one_job(sending: SendingBooks, receiving: ReceivingBooks, job: bytes, *, certain: bool) -> None:
    params = await receiving.params_for(SENDER.address, PRICE, certain=certain)
    payment = await sending.pay(payment_id(job, 1, 0), RECIPIENT.address, PRICE, params, certain=certain, job_id=job)
    verdict = await receiving.receive(SENDER.address, payment)
    await sending.settle(RECIPIENT.address, verdict, RECIPIENT.address)
    await receiving.debit(SENDER.address, job, 1, PRICE)
    await sending.debit(RECIPIENT.address, job, 1, PRICE)
