"""``wallet show`` and ``wallet deposit``: over the door of a running node, and alone when none runs."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import trio

from ledger.devchain import bind, serve
from ledger.holdings import MAX_COUNTERPARTS, Counterpart, Holdings, TicketCount, Tickets, read_holdings
from ledger.journal import Journal
from ledger.money import ETH, MAX_WEI, Settlement
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from ledger.sending import SendingBooks
from ledger.transaction_rows import JournalTransactions
from ledger.wallet import Wallet
from market.config import Config, load_config
from market.console import run_app
from market.instance import claim
from market.rolekit import open_purse
from market.wallet_commands import app
from market.walletdoor import DepositOrder, deposit_more, show_wallet, wallet_door, wallets
from p2p.codec import MAX_MESSAGE, decode, encode
from p2p.errors import Misconfigured, Unavailable
from p2p.identity import load_or_create
from p2p.peer import Address, address_text
from tests.contracts.chains import direct
from tests.test_chain import TERMS, Clock, connected

ALICE, BOB = "gateway-1", "orchestrator-1"


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    listener = bind(0)  # nobody answers at the port after it either
    port = listener.getsockname()[1]
    listener.close()
    monkeypatch.setenv("PASAR_HOME", str(tmp_path))
    monkeypatch.setenv("PASAR_LOCAL_PORT", str(port - 1))
    return load_config()


@pytest.fixture
async def chain(config, nursery):
    return await nursery.start(partial(serve, bind(config.chain_port)))


async def wallet_at(path: Path) -> str:
    """A data directory with a key in it; the key's address."""
    os.makedirs(path)
    return address_text((await load_or_create(path / "key.json", "", None, development=True)).address)


async def test_alone_it_opens_journal_and_chain_and_takes_from_the_faucet(config, chain):
    address = await wallet_at(config.home / "main" / ALICE)
    before = await show_wallet(config, None)
    assert isinstance(before.answer, Holdings)
    assert (before.running, before.answer.deposit, before.answer.balance, before.answer.online) == (False, 0, 0, True)
    assert address_text(before.answer.address) == address
    done = await deposit_more(config, None, DepositOrder(7 * ETH, ETH))
    assert (done.answer.deposit, done.answer.reserve, done.running) == (7 * ETH, ETH, False)
    again = await deposit_more(config, None, DepositOrder(0, 5))
    assert (again.answer.deposit, again.answer.reserve) == (7 * ETH, ETH + 5)
    after = (await show_wallet(config, "gateway")).answer
    assert (after.deposit, after.reserve, after.settlement) == (7 * ETH, ETH + 5, chain.settlement)


async def test_a_running_node_is_asked_and_its_directory_left_alone(config, chain):
    await wallet_at(config.home / "main" / ALICE)
    await wallet_at(config.home / "main" / BOB)
    instance = claim(config.home, "main", "orchestrator")
    async with trio.open_nursery() as node:
        purse, identity = await open_purse(config, instance, node)
        await node.start(wallet_door(instance, purse).run)
        told = await show_wallet(config, None)  # the one that runs, though a gateway's wallet lies there too
        assert (told.running, told.data_dir, told.answer.address) == (True, instance.path, identity.address)
        done = await deposit_more(config, "orchestrator", DepositOrder(3, 4))
        assert (done.running, done.answer.deposit, done.answer.reserve) == (True, 3, 4)
        assert purse.chain.deposit_of(identity.address).deposit == 3  # through the node's own wallet
        assert (await show_wallet(config, "gateway")).running is False
        node.cancel_scope.cancel()
    with pytest.raises(Unavailable, match="starting and answers nobody yet"):
        await show_wallet(config, "orchestrator")
    instance.release()
    assert (await show_wallet(config, "orchestrator")).running is False


async def test_without_a_chain_it_tells_what_was_known(config, tmp_path):
    await wallet_at(config.home / "main" / ALICE)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, bind(config.chain_port)))
        await deposit_more(config, None, DepositOrder(9, 0))
        nursery.cancel_scope.cancel()
    told = (await show_wallet(config, None)).answer
    assert (told.online, told.balance, told.fees, told.deposit) == (False, None, None, 9)
    with pytest.raises(Unavailable):
        await deposit_more(config, None, DepositOrder(1, 0))


async def test_nothing_is_made_where_no_wallet_is(config, tmp_path):
    for told in (config, config.model_copy(update={"data_dir": tmp_path / "nowhere"})):
        with pytest.raises(Misconfigured, match="no wallet in"):
            await show_wallet(told, None)
    assert not (tmp_path / "nowhere").exists()
    await wallet_at(config.home / "main" / ALICE)
    with pytest.raises(Misconfigured, match="no wallet in"):
        wallets(config, "orchestrator")
    with pytest.raises(Misconfigured, match=r"--rpc"):  # no chain answers, and none was ever seen
        await show_wallet(config, None)


async def test_on_a_real_chain_the_shortfall_is_named(tmp_path):
    clock = Clock()
    rpc = direct(TERMS, clock, chain_id=10)
    chain = await connected(rpc, clock, broker=rpc.chain.settlement.broker)
    identity = await load_or_create(tmp_path / "key.json", "", None)
    wallet = Wallet(chain, identity)
    with pytest.raises(Misconfigured, match=r"lacks 30 wei, and gas: send it"):
        await wallet.deposit(10, 20)
    with pytest.raises(Misconfigured, match=r"`pasar wallet deposit 10wei --reserve 20wei`"):
        await wallet.ensure_funded(10, 20)
    with pytest.raises(Misconfigured, match=r"`pasar wallet deposit 10wei` after"):
        await wallet.ensure_funded(10)
    assert "pasar_fund" not in rpc.asked


async def test_holdings_are_the_books(tmp_path):
    """One sends, the other receives: credit, what is in flight, and winners show on both sides."""
    clock = Clock()
    rpc = direct(TERMS, clock)
    chain = await connected(rpc, clock)
    async with trio.open_nursery() as nursery:
        sides = []
        for name in ("sender", "recipient"):
            journal = Journal(tmp_path / f"{name}.db")
            await nursery.start(journal.run)
            identity = await load_or_create(tmp_path / name, "", None, development=True)
            await Wallet(chain, identity, JournalTransactions(journal)).deposit(ETH, ETH)
            sides.append((journal, identity))
        (out, alice), (into, bob) = sides
        wall = lambda: float(clock())  # noqa: E731
        sending = SendingBooks(out, alice, chain.settlement, chain, wall_time=wall)
        receiving = ReceivingBooks(into, bob, chain.settlement, ReceivingTerms(), chain, wall_time=wall)
        params = await receiving.params_for(alice.address, 4000, certain=True)
        sending.learn(params)
        payment = await sending.pay(b"\x01" * 32, bob.address, 4000, params, certain=True)
        flying = await read_holdings(chain, out, alice.address)
        (one,) = flying.counterparts
        assert (one.peer, one.incoming, one.in_flight >= 4000, one.balance) == (bob.address, False, True, 0)
        assert (flying.tickets.payments_sent.count, flying.tickets.payments_unanswered) == (1, 1)
        verdict = await receiving.receive(alice.address, payment)
        credited = await sending.settle(bob.address, verdict, bob.address)
        await sending.record_delivered(bob.address)
        sent, got = await read_holdings(chain, out, alice.address), await read_holdings(chain, into, bob.address)
        (paid,), (payer,) = sent.counterparts, got.counterparts
        assert credited == paid.balance == payer.balance > 0
        assert (paid.incoming, payer.incoming, paid.exposure, paid.delivered) == (False, True, 2, 1)
        assert (sent.tickets.won.count, sent.tickets.payments_unanswered) == (0, 0)
        assert got.tickets.pending.count == got.tickets.won.count > 0
        assert got.tickets.pending.wei == payer.unredeemed > 0
        assert decode(encode(got)) == got
        nursery.cancel_scope.cancel()


def test_the_largest_holdings_fit_into_an_answer():
    most = Counterpart(Address(b"\xff" * 20), False, *([MAX_WEI] * 6), *([2**32 - 1] * 3))
    many = TicketCount(2**64 - 1, 2**256 - 1)
    held = Holdings(
        Address(b"\xff" * 20),
        Settlement(2**64 - 1, Address(b"\xff" * 20)),
        True,
        True,
        *([2**256 - 1] * 4),
        2**64 - 1,
        (most,) * MAX_COUNTERPARTS,
        2**64 - 1,
        Tickets(many, many, many, many, 2**64 - 1),
    )
    assert len(encode(held)) < MAX_MESSAGE
    assert decode(encode(held)) == held


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["wallet", "show"], "no wallet in"),
        (["wallet", "deposit", "0"], "nothing to deposit"),
        (["wallet", "deposit", "many"], "is no amount"),
        (["wallet", "deposit", "1", "--reserve", "0.5wei"], "no whole amount"),
        (["wallet", "show", "--role", "bootstrap"], "'bootstrap' is not one of"),
        (["wallet", "burn"], "No such command"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(config, capsys, arguments, said):
    assert run_app(app, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_the_commands_print_lines_or_one_object(config, capsys):
    async def prepare() -> str:
        address = await wallet_at(config.home / "main" / ALICE)
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, bind(config.chain_port)))
            await deposit_more(config, None, DepositOrder(ETH, 0))
            nursery.cancel_scope.cancel()
        return address

    address = trio.run(prepare)
    assert run_app(app, ["wallet", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (shown["address"], shown["deposit_wei"], shown["balance_wei"], shown["running"]) == (
        address,
        ETH,
        None,
        False,
    )
    assert shown["tickets"]["won"] == 0
    assert shown["counterparts"] == []
    assert run_app(app, ["wallet", "show", "--data-dir", str(config.home / "main" / ALICE)]) == 0
    text = capsys.readouterr().out
    assert address in text
    assert "1 ETH, as last seen" in text
    assert run_app(app, ["wallet", "deposit", "1gwei"]) == 4  # the chain is gone
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(config.home / "main") == [ALICE]
