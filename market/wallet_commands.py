"""Commands ``wallet show`` and ``wallet deposit``. They parse, ask, and show; node.py joins them.

The answer goes to stdout: lines for people, one object with ``--json``.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import trio
import typer

from ledger.money import MAX_WEI, parse_wei, wei_text
from market.config import Config, Role, load_config
from market.console import show_table
from p2p.errors import Misconfigured
from p2p.peer import address_text

if TYPE_CHECKING:
    from ledger.holdings import Counterpart, Holdings
    from market.walletdoor import Deposited, Told

app = typer.Typer()
wallet = typer.Typer(help="What a node's key holds, and putting money into the broker.", no_args_is_help=True)
app.add_typer(wallet, name="wallet")


class WalletRole(StrEnum):
    """Roles that have a wallet."""

    GATEWAY = "gateway"
    ORCHESTRATOR = "orchestrator"


RoleOption = Annotated[WalletRole | None, typer.Option(help="Whose wallet; else the running node's, gateway first.")]
NetworkOption = Annotated[str | None, typer.Option(help="Name of the network; main.")]
DataDirOption = Annotated[Path | None, typer.Option(help="Directory of the node.")]
RpcOption = Annotated[str | None, typer.Option(help="JSON-RPC of the chain, when no node runs.")]
BrokerOption = Annotated[str | None, typer.Option(help="Address of the broker contract, when no node runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One object on stdout.")]


@wallet.command()
def show(
    role: RoleOption = None,
    network: NetworkOption = None,
    data_dir: DataDirOption = None,
    rpc: RpcOption = None,
    broker: BrokerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Address, chain, balance, deposit, credit with each counterpart, tickets. Asks the running node where one is."""
    from market.walletdoor import show_wallet

    told = trio.run(show_wallet, _config(network, data_dir, rpc, broker), _role(role))
    held: Holdings = told.answer
    if as_json:
        print(json.dumps({**held.as_dict(), "data_dir": str(told.data_dir), "running": told.running}))
        return
    _print_lines(_summary(held, told))
    if held.counterparts:
        print()
        show_table(HEADINGS, [_cells(one) for one in held.counterparts])


@wallet.command()
def deposit(
    amount: Annotated[str, typer.Argument(help="To add to the deposit: wei, 0.001eth, 500gwei.")],
    reserve: Annotated[str, typer.Option(help="To add to the reserve.")] = "0",
    role: RoleOption = None,
    network: NetworkOption = None,
    data_dir: DataDirOption = None,
    rpc: RpcOption = None,
    broker: BrokerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put money into the broker, from which tickets are paid: the key's own, on a development chain the faucet's."""
    from market.walletdoor import DepositOrder, deposit_more

    order = DepositOrder(parse_wei(amount), parse_wei(reserve))
    if not 0 < order.deposit + order.reserve <= MAX_WEI:
        raise Misconfigured("amount: nothing to deposit; name an amount above 0, or a --reserve")
    told = trio.run(deposit_more, _config(network, data_dir, rpc, broker), _role(role), order)
    done: Deposited = told.answer
    shown = {
        "transaction": "0x" + done.transaction.hex(),
        "cost_wei": done.cost,
        "deposit_wei": done.deposit,
        "reserve_wei": done.reserve,
        "data_dir": str(told.data_dir),
        "running": told.running,
    }
    if as_json:
        print(json.dumps(shown))
    else:
        print(f"deposit {wei_text(done.deposit)}, reserve {wei_text(done.reserve)} (gas: {wei_text(done.cost)})")


def _config(network: str | None, data_dir: Path | None, rpc: str | None, broker: str | None) -> Config:
    return load_config(network=network, data_dir=data_dir, rpc=rpc, broker=broker)


def _role(role: WalletRole | None) -> Role | None:
    return None if role is None else "gateway" if role is WalletRole.GATEWAY else "orchestrator"


def _summary(held: Holdings, told: Told) -> list[tuple[str, str]]:
    unknown = "unknown, the chain does not answer"
    chain = f"{held.settlement.chain_id}" + (" (development: worth nothing)" if held.development else "")
    won, sent = held.tickets.won, held.tickets.payments_sent
    lines = [
        ("node", f"{told.data_dir} ({'running' if told.running else 'not running'})"),
        ("address", address_text(held.address)),
        ("chain", chain),
        ("broker", address_text(held.settlement.broker)),
        ("balance", unknown if held.balance is None else wei_text(held.balance)),
        ("earned", unknown if held.fees is None else f"{wei_text(held.fees)} in the broker"),
        ("deposit", wei_text(held.deposit) + ("" if held.online else ", as last seen")),
        ("reserve", wei_text(held.reserve) + ("" if held.online else ", as last seen")),
        ("tickets won", f"{won.count} of {wei_text(won.wei)} in all"),
        ("  redeemed", f"{held.tickets.redeemed.count} of {wei_text(held.tickets.redeemed.wei)}"),
        ("  pending", f"{held.tickets.pending.count} of {wei_text(held.tickets.pending.wei)}"),
        ("payments", f"{sent.count} of {wei_text(sent.wei)}, {held.tickets.payments_unanswered} unanswered"),
    ]
    if held.withdraw_round:
        lines.append(("unlocking", f"deposit and reserve may leave in round {held.withdraw_round}"))
    if held.tickets.lost.count:
        lines.append(("  lost", f"{held.tickets.lost.count} of {wei_text(held.tickets.lost.wei)}"))
    return lines


HEADINGS = ("counterpart", "", "credit", "at risk", "unredeemed", "trusted with", "delivered", "faults")


def _cells(one: Counterpart) -> tuple[str, ...]:
    return (
        address_text(one.peer),
        "pays us" if one.incoming else "we pay",
        wei_text(one.balance),
        wei_text(one.at_risk),
        wei_text(one.unredeemed),
        f"{one.exposure} small jobs",
        str(one.delivered),
        str(one.faults),
    )


def _print_lines(lines: list[tuple[str, str]]) -> None:
    for name, text in lines:
        print(f"{name:14} {text}", file=sys.stdout)
