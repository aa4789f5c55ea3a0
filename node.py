"""Pasar's one program: parse, check, build, run. Roles with ``--role``, everything else as a command.

    python node.py --role orchestrator|gateway|bootstrap      a node, until it is told to stop
    python node.py bid text-to-image --prompt "a red circle"   a light client
    python node.py --help                                      all commands

Nobody imports this file: it is the only one that joins network, ledger, compute and market.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Annotated

import structlog
import trio
import typer

import ledger.commands
import market.commands
from compute.modelfolder import bundled
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from ledger.auditor import Auditor
from ledger.chain import Chain
from ledger.customers import CustomerBooks
from ledger.devchain import ensure_devchain
from ledger.journal import Journal
from ledger.money import ETH
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from ledger.redeemer import Redeemer
from ledger.sending import SendingBooks
from ledger.transaction_rows import JournalTransactions
from ledger.wallet import Wallet
from market.bookfeed import BookFeed
from market.config import Config, Role, load_config, passphrase_of
from market.console import configure_logs, run_app
from market.controls import ControlLines
from market.gateway import Gateway, Means
from market.hello import Greeter
from market.instance import Instance, MeetingPoint, claim, meet
from market.keeping import Keeping
from market.offering import Terms
from market.orchestrator import Orchestrator, Supplies
from market.overlay import Overlay, Wiring, open_book
from market.prefilter import SMALL_JOB, SMALL_JOB_DEVELOPMENT
from p2p.addresses import parse_target
from p2p.errors import Misconfigured, PasarError, Unavailable
from p2p.identity import Identity, load_or_create
from p2p.limits import bound_recursion, raise_open_files
from p2p.peer import address_text, parse_address, peer_text

log = structlog.get_logger("node")

PIPELINES = ("text-to-image",)
GATEWAY_DEPOSIT = ETH
GATEWAY_RESERVE = ETH
GAS_MONEY = ETH // 100
PARAMS_LIVE_MS, PARAMS_LIVE_DEVELOPMENT_MS = 60_000, 5_000
DRAIN_S = 60.0
NEIGHBOURS_ASKED = 4

# Whom each role is found as, and whom it wants to be connected with.
KINDS: dict[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bootstrap": (("bootstrap",), ()),
    "gateway": (("gateway",), tuple(f"pipeline/{name}" for name in PIPELINES)),
    "orchestrator": (tuple(f"pipeline/{name}" for name in PIPELINES), ("gateway",)),
}


@dataclass(frozen=True, slots=True)
class Purse:
    """A node's money: the chain it settles on, its journal, its wallet."""

    chain: Chain
    journal: Journal
    wallet: Wallet


@dataclass(frozen=True, slots=True)
class Base:
    """What every role stands on."""

    config: Config
    role: Role
    instance: Instance
    identity: Identity
    overlay: Overlay
    greeter: Greeter
    feed: BookFeed


Drain = Callable[[], Awaitable[None]]


def run_role(config: Config, role: Role) -> None:
    """Run a node until a signal ends it. Raises Misconfigured before anything listens."""
    raise_open_files()
    trio.run(live, config, role)


async def live(config: Config, role: Role) -> None:
    """One node's life: claim a directory, build, say READY, serve, drain."""
    instance = claim(config.home, config.network, role, config.data_dir)
    try:
        async with trio.open_nursery() as nursery:
            drains: list[Drain] = []
            nursery.start_soon(end_on_signal, nursery.cancel_scope, drains)
            build = {"bootstrap": run_bootstrap, "gateway": run_gateway, "orchestrator": run_orchestrator}[role]
            await build(config, instance, nursery, drains)
    finally:
        instance.release()


async def end_on_signal(scope: trio.CancelScope, drains: list[Drain]) -> None:
    """The first signal drains (finish or refund), the second ends at once."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            break
        log.info("stopping: finishing what is under way; once more to stop at once")
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                with trio.move_on_after(DRAIN_S):
                    for one in drains:
                        await one()
                nursery.cancel_scope.cancel()

            nursery.start_soon(drain)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
    scope.cancel()


# -- parts -----------------------------------------------------------------------------------------------------------


async def open_purse(config: Config, instance: Instance, nursery: trio.Nursery) -> tuple[Purse, Identity]:
    """Chain, key, journal and wallet. Raises Misconfigured when the chain of a first start cannot be reached."""
    try:
        rpc = config.rpc or (await ensure_devchain(config.chain_port, config.home / "devchain")).rpc
        broker = parse_address(config.broker) if config.broker else None
        chain = await Chain.connect(rpc, broker, checkpoint=instance.path / "chain.json")
    except Unavailable as exc:
        raise Misconfigured(f"rpc: {exc}; name a chain that answers with --rpc, or leave the flag out") from exc
    chain_id = None if chain.development else chain.settlement.chain_id
    identity = await load_or_create(
        instance.path / "key.json", passphrase_of(config), chain_id, development=chain.development
    )
    identity.require_chain(chain.settlement.chain_id, chain.development)
    journal = Journal(instance.path / "journal.db")
    await nursery.start(journal.run)
    wallet = Wallet(chain, identity, JournalTransactions(journal))
    await nursery.start(chain.run)
    await nursery.start(Auditor(journal).run)
    return Purse(chain, journal, wallet), identity


async def fund(purse: Purse, deposit: int, reserve: int) -> None:
    """Have what this role needs on the chain. A chain that is down is no reason not to start a second time."""
    try:
        await purse.wallet.resume()
        await purse.wallet.ensure_funded(deposit, reserve, GAS_MONEY)
    except Unavailable as exc:
        log.warning("the chain does not answer; going on with what was known", reason=str(exc))


async def build_base(
    config: Config, role: Role, instance: Instance, identity: Identity, purse: Purse | None, nursery: trio.Nursery
) -> Base:
    """Network and book; started means connected, topics joined, newcomers served."""
    point = meet(config.home, config.local_port, may_hold=not config.listen) if config.local_bootstrap else None
    kinds, wanted = KINDS[role]
    wiring = Wiring(
        network=config.network,
        listen=config.listen or (listen_locally(point),),
        announce=config.announce,
        targets=tuple(parse_target(addr) for addr in config.bootstrap),
        local=point,
        kinds=kinds,
        wanted=wanted,
    )
    greeter = Greeter(config.network, role, lambda: purse.chain.settlement if purse else None, time.time)
    overlay = Overlay(identity, wiring, await open_book(instance.path, time.time), time.time)
    feed = BookFeed(overlay.host, overlay.gossip, greeter, PIPELINES, time.time)
    await nursery.start(overlay.run)
    await nursery.start(feed.run)
    return Base(config, role, instance, identity, overlay, greeter, feed)


def listen_locally(point: MeetingPoint | None) -> str:
    return point.addr if point is not None and point.ours else "/ip4/127.0.0.1/tcp/0"


async def say_ready(base: Base) -> None:
    """Records put, a neighbour's book taken; then the one line on stdout."""
    await base.overlay.put_records()
    await base.overlay.look_once()
    for neighbour in tuple(base.overlay.host.connected())[:NEIGHBOURS_ASKED]:
        try:
            await base.feed.take_over(neighbour)
            break
        except PasarError as exc:
            log.info("a neighbour's book was not to be had", peer=peer_text(neighbour), reason=str(exc))
    ready = {
        "role": base.role,
        "peer_id": peer_text(base.identity.peer),
        "addrs": base.overlay.host.addrs(),
        "address": address_text(base.identity.address),
        "http": None,
    }
    print("READY " + json.dumps(ready), flush=True)


# -- roles -----------------------------------------------------------------------------------------------------------


async def run_bootstrap(config: Config, instance: Instance, nursery: trio.Nursery, drains: list[Drain]) -> None:
    """Whom others dial first: joins every topic, keeps a book, sells and buys nothing."""
    identity = await load_or_create(instance.path / "key.json", passphrase_of(config), None, development=True)
    await say_ready(await build_base(config, "bootstrap", instance, identity, None, nursery))


async def run_gateway(config: Config, instance: Instance, nursery: trio.Nursery, drains: list[Drain]) -> None:
    """Buys for clients, pays with tickets."""
    purse, identity = await open_purse(config, instance, nursery)
    await fund(purse, GATEWAY_DEPOSIT, GATEWAY_RESERVE)
    base = await build_base(config, "gateway", instance, identity, purse, nursery)
    books = SendingBooks(purse.journal, identity, purse.chain.settlement, purse.chain)
    await books.load()
    lines = ControlLines(base.overlay.host, base.greeter, base.overlay.reach)
    development = purse.chain.development
    means = Means(
        signer=identity,
        network=base.overlay.host,
        greeter=base.greeter,
        feed=base.feed,
        lines=lines,
        journal=purse.journal,
        books=books,
        customers=CustomerBooks(purse.journal),
        results=Keeping(instance.path / "results"),
        settlement=purse.chain.settlement,
        reach=base.overlay.reach,
        small_job=SMALL_JOB_DEVELOPMENT if development else SMALL_JOB,
        development=development,
        chance=SystemRandom(),
        nonce=secrets.token_bytes,
        wall_time=time.time,
    )
    gateway = Gateway(means)
    await nursery.start(lines.run)
    await nursery.start(gateway.run)
    drains.append(gateway.drain)
    await say_ready(base)


async def run_orchestrator(config: Config, instance: Instance, nursery: trio.Nursery, drains: list[Drain]) -> None:
    """Sells compute: a worker process, offers, quotes, jobs, redemption."""
    worker = Worker(WorkerConfig(instance.path / "worker", config.models or (bundled(),), threads=config.threads))
    purse, identity = await open_purse(config, instance, nursery)
    await nursery.start(worker.run)
    await fund(purse, 0, 0)
    development, settlement = purse.chain.development, purse.chain.settlement
    terms = ReceivingTerms(lives_for_ms=PARAMS_LIVE_DEVELOPMENT_MS if development else PARAMS_LIVE_MS)
    books = ReceivingBooks(purse.journal, identity, settlement, terms, purse.chain)
    await books.load()
    redeemer = Redeemer(purse.chain, purse.wallet, books)
    await nursery.start(redeemer.run)
    if not development:
        books.terms = replace(terms, redemption_cost=redeemer.redemption_cost())
    base = await build_base(config, "orchestrator", instance, identity, purse, nursery)
    supplies = Supplies(
        signer=identity,
        network=base.overlay.host,
        gossip=base.overlay.gossip,
        greeter=base.greeter,
        feed=base.feed,
        machine=worker,
        journal=purse.journal,
        books=books,
        cover=purse.chain,
        look_up=purse.chain.cover_of,
        keeping=Keeping(instance.path / "sealed"),
        terms=Terms(config.price, config.slots, settlement, identity.address),
        small_job=SMALL_JOB_DEVELOPMENT if development else SMALL_JOB,
        development=development,
        wall_time=time.time,
    )
    orchestrator = Orchestrator(supplies)
    await nursery.start(orchestrator.run)
    drains.append(orchestrator.drain)
    await say_ready(base)


# -- the command line ------------------------------------------------------------------------------------------------

app = typer.Typer(
    name="pasar",
    help="A peer-to-peer market for AI compute. Start a node with --role, or use one of the commands.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (market.commands.app, ledger.commands.app):
    app.registered_commands += part.registered_commands
    app.registered_groups += part.registered_groups


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    role: Annotated[str | None, typer.Option(help="orchestrator, gateway or bootstrap.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this node; else the first free one.")] = None,
    listen: Annotated[list[str] | None, typer.Option(help="Multiaddr to listen on; may be repeated.")] = None,
    announce: Annotated[list[str] | None, typer.Option(help="Multiaddr under which others reach us.")] = None,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a bootstrap, with /p2p/PEER.")] = None,
    network: Annotated[str | None, typer.Option(help="Name of the network; main.")] = None,
    rpc: Annotated[str | None, typer.Option(help="JSON-RPC of the chain; else the development chain here.")] = None,
    broker: Annotated[str | None, typer.Option(help="Address of the broker contract.")] = None,
    http: Annotated[str | None, typer.Option(help="HOST:PORT of the HTTP face, on loopback.")] = None,
    price: Annotated[str | None, typer.Option(help="Wei per million units; also 500gwei.")] = None,
    log_json: Annotated[bool | None, typer.Option("--log-json", help="Logs as JSON lines.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Every message, on stderr.")] = False,
) -> None:
    """Start a node with --role, or use one of the commands."""
    quiet = context.invoked_subcommand is not None
    configure_logs(as_json=bool(log_json), level="debug" if verbose else "warning" if quiet else "info")
    if role is None:
        if not quiet:
            raise Misconfigured("name a --role (orchestrator, gateway, bootstrap) or a command; --help lists them")
        return
    if quiet or role not in KINDS:
        raise Misconfigured(f"role: {role!r} is none of orchestrator, gateway, bootstrap")
    config = load_config(
        data_dir=data_dir,
        listen=tuple(listen or ()),
        announce=tuple(announce or ()),
        bootstrap=tuple(bootstrap or ()),
        network=network,
        rpc=rpc,
        broker=broker,
        http=http,
        price=price,
        log_json=log_json,
    )
    run_role(config, role)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; the exit code: 0 done, 2 bad usage or configuration, 3 no match, 4 failed, 5 no gateway."""
    bound_recursion()  # after the imports: one of them has lifted it
    return run_app(app, argv)


if __name__ == "__main__":
    sys.exit(main())
