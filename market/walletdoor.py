"""A node's wallet, asked from outside: what it holds, and putting more of it into the broker.

Asks the running node over its local door. Only when no node holds the data directory it opens journal and chain itself,
for as long as one question takes. Knows no command line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from ledger.devchain import HOST
from ledger.holdings import Holdings, read_holdings
from ledger.money import Amount
from market.config import Config, Role
from market.instance import MAX_INSTANCES, Instance, claim, is_held
from market.localdoor import ANSWER_S, Answers, LocalDoor, knock
from p2p.codec import Hash, Wei, message
from p2p.errors import Misconfigured, PasarError, Unavailable

if TYPE_CHECKING:
    from market.rolekit import Purse

KEY_FILE = "key.json"
SHOW_PATIENCE_S = 15.0
WALLET_ROLES: tuple[Role, ...] = ("gateway", "orchestrator")

T = TypeVar("T")


@message("wallet-question", 1)
@dataclass(frozen=True, slots=True)
class WalletQuestion:
    """What does the node hold?"""


@message("deposit-order", 1)
@dataclass(frozen=True, slots=True)
class DepositOrder:
    """Put this much more into the broker."""

    deposit: Amount
    reserve: Amount


@message("deposited", 1)
@dataclass(frozen=True, slots=True)
class Deposited:
    """It is in the chain: what the transaction cost, and what the key has there now."""

    transaction: Hash
    cost: Wei
    deposit: Wei
    reserve: Wei


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, of which data directory, and whether a running node gave it."""

    answer: Any
    data_dir: Path
    running: bool


def wallet_door(instance: Instance, purse: Purse, others: Answers = MappingProxyType({})) -> LocalDoor:
    """The door of a node that has a wallet, and answers ``others`` besides."""

    async def show(_: WalletQuestion) -> Holdings:
        return await _holdings(purse)

    async def deposit(order: DepositOrder) -> Deposited:
        return await _deposit(purse, order)

    return LocalDoor(instance.path, {WalletQuestion: show, DepositOrder: deposit, **others})


async def show_wallet(config: Config, role: Role | None) -> Told:
    """What a wallet of this machine holds. Raises Misconfigured when there is none."""
    return await _ask(config, role, WalletQuestion(), SHOW_PATIENCE_S, _holdings)


async def deposit_more(config: Config, role: Role | None, order: DepositOrder) -> Told:
    """Put more into the broker, from the wallet's own money; on a development chain from the faucet's."""
    return await _ask(config, role, order, ANSWER_S, lambda purse: _deposit(purse, order))


def wallets(config: Config, role: Role | None) -> tuple[Path, ...]:
    """Data directories that hold a wallet, the likeliest first. Raises Misconfigured when there is none."""
    if config.data_dir is not None:
        candidates = [config.data_dir]
    else:
        roles = (role,) if role else WALLET_ROLES
        base = config.home / config.network
        candidates = [base / f"{name}-{number}" for name in roles for number in range(1, MAX_INSTANCES + 1)]
    found = tuple(path for path in candidates if (path / KEY_FILE).is_file())
    if not found:
        where = config.data_dir or config.home / config.network
        raise Misconfigured(f"no wallet in {where}: start a node there first, or name its --data-dir")
    return found


async def _ask(
    config: Config, role: Role | None, question: object, patience: float, alone: Callable[[Purse], Awaitable[T]]
) -> Told:
    found = wallets(config, role)
    for path in found:
        answer = await knock(path, question, patience)
        if answer is not None:
            return Told(answer, path, running=True)
    if is_held(found[0]):
        raise Unavailable(f"the node of {found[0]} is starting and answers nobody yet; try again in a moment")
    return Told(await _alone(config, role or "gateway", found[0], alone), found[0], running=False)


async def _alone(config: Config, role: Role, path: Path, ask: Callable[[Purse], Awaitable[T]]) -> T:
    """Hold the data directory as a node would, and ask once. It starts no chain: one for a minute is of no use."""
    from market.rolekit import open_purse  # brings the network along, which a running node's wallet never needs

    told = config.model_copy(update={"rpc": config.rpc or f"http://{HOST}:{config.chain_port}"})
    instance = claim(config.home, config.network, role, path)
    failed: PasarError | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                purse, _ = await open_purse(told, instance, nursery)
                answer = await ask(purse)
            except PasarError as exc:  # out of the nursery as itself, not in a group
                failed = exc
            nursery.cancel_scope.cancel()
    finally:
        instance.release()
    if failed is not None:
        raise failed
    return answer


async def _holdings(purse: Purse) -> Holdings:
    return await read_holdings(purse.chain, purse.journal, purse.wallet.address)


async def _deposit(purse: Purse, order: DepositOrder) -> Deposited:
    mined = await purse.wallet.deposit(order.deposit, order.reserve)
    cover = purse.chain.deposit_of(purse.wallet.address)
    return Deposited(mined.hash, mined.cost, cover.deposit, cover.reserve)
