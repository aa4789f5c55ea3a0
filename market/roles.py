"""Roles: the life of one node, and how each role is put together from its parts.

    claim a directory -> build the role -> READY -> serve -> drain on an order

``machines`` makes what an orchestrator works with; this module starts no worker of its own. Knows no command line.
"""

from __future__ import annotations

import faulthandler
import gc
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from compute.hardware import free_disk, probe
from compute.placement import MOST_SLOTS
from compute.work import Machine
from ledger.conservation import BooksBroken
from ledger.customers import CustomerBooks
from ledger.money import ETH, Settlement
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from ledger.redeemer import Redeemer
from ledger.sending import SendingBooks
from market.config import Config, Role, passphrase_of
from market.controls import ControlLines
from market.conversation import now_ms
from market.gateway import Gateway, Means
from market.inspecting import Inspection
from market.instance import Instance, claim
from market.keeping import Keeping
from market.lifeline import Lifeline
from market.modeldoor import costs_of, model_answers
from market.offering import Terms
from market.orchestrator import Orchestrator, Supplies
from market.prefilter import SMALL_JOB, SMALL_JOB_DEVELOPMENT
from market.prices import PriceList
from market.pricing import Pricing
from market.rolekit import build_base, fund, open_purse, say_ready
from market.walletdoor import wallet_door
from p2p.addresses import listen_parts
from p2p.errors import Misconfigured
from p2p.identity import load_or_create
from p2p.limits import PortClaim, raise_open_files, share_one_heap
from p2p.peer import Address

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from market.http.face import Face

log = structlog.get_logger("node")

GATEWAY_DEPOSIT = ETH
GATEWAY_RESERVE = ETH
PARAMS_LIVE_MS, PARAMS_LIVE_DEVELOPMENT_MS = 60_000, 5_000
DRAIN_S = 60.0
COLLECT_AT = 10_000  # objects more than before that are in containers: stock counts to 700
MB = 1_000_000
LEAST_DISK = 200 * MB  # sealed results, traces and the journal lie there

Drain = Callable[[], Awaitable[None]]


class OwnMachine(Machine, Protocol):
    """A machine that this node starts and owns."""

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None: ...


Machines = Callable[[Config, Instance], OwnMachine]


@dataclass(frozen=True, slots=True)
class Life:
    """One node's life: what it was told, its directory, its line to whoever started it, what ends it in order."""

    config: Config
    instance: Instance
    lifeline: Lifeline
    nursery: trio.Nursery
    machines: Machines
    drains: list[Drain]
    face: Face | None = None


def run_role(
    config: Config, role: Role, machines: Machines, instance: Instance | None = None, lifeline: Lifeline | None = None
) -> None:
    """Run a node until it is told to end. Raises Misconfigured before anything listens.

    ``instance`` is the data directory where it is held already, ``lifeline`` the line to a supervisor.
    """
    faulthandler.enable()  # a supervisor that has this process abort wants to know where it hung
    raise_open_files()
    share_one_heap()
    _settle_memory()
    held = instance or claim(config.home, config.network, role, config.data_dir)
    trio.run(live, config, role, machines, held, lifeline or Lifeline())


def _settle_memory() -> None:
    """What is loaded by now stays: no collection looks at it again, and one comes when there is more to collect."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AT)


async def live(config: Config, role: Role, machines: Machines, instance: Instance, lifeline: Lifeline) -> None:
    """Build, say READY, serve, drain."""
    face: Face | None = None
    try:
        check_ports(config)
        face = open_face(config, role)
        async with trio.open_nursery() as nursery:
            life = Life(config, instance, lifeline, nursery, machines, [], face)
            await nursery.start(lifeline.run)
            nursery.start_soon(end_on_order, nursery.cancel_scope, life)
            if face is not None:
                await nursery.start(face.run)
            build = {"bootstrap": run_bootstrap, "gateway": run_gateway, "orchestrator": run_orchestrator}[role]
            await build(life)
    except* BooksBroken:
        await lifeline.hopeless()
        raise
    finally:
        instance.release()
        if face is not None:
            face.close()


def check_ports(config: Config) -> None:
    """Raises Misconfigured for a port that is taken, before money moves; the host claims them when it listens."""
    for addr in config.listen:
        ip, port, _ = listen_parts(addr)
        PortClaim(ip, port).release()


def open_face(config: Config, role: Role) -> Face | None:
    """The HTTP face, where one is wanted: bound first, so that a taken port ends a node that nobody saw."""
    if config.http is None:
        return None
    from market.http.face import Face  # a web server, which few nodes need

    return Face(config.http, role, config.network)


async def end_on_order(scope: trio.CancelScope, life: Life) -> None:
    """The first order drains (finish or refund), the second ends at once."""
    await life.lifeline.ordered(1)
    log.info("stopping: finishing what is under way; once more to stop at once")
    await life.lifeline.stopping()
    async with trio.open_nursery() as nursery:

        async def drain() -> None:
            with trio.move_on_after(DRAIN_S):
                for one in life.drains:
                    await one()
            nursery.cancel_scope.cancel()

        nursery.start_soon(drain)
        await life.lifeline.ordered(2)
        nursery.cancel_scope.cancel()
    scope.cancel()


async def run_bootstrap(life: Life) -> None:
    """Whom others dial first: joins every topic, keeps a book, sells and buys nothing."""
    config, instance = life.config, life.instance
    identity = await load_or_create(instance.path / "key.json", passphrase_of(config), None, development=True)
    base = await build_base(config, "bootstrap", instance, identity, None, life.nursery, life.lifeline.port)
    await say_ready(base, life.lifeline, life.face)


async def run_gateway(life: Life) -> None:
    """Buys for clients, pays with tickets."""
    config, instance, nursery = life.config, life.instance, life.nursery
    purse, identity = await open_purse(config, instance, nursery)
    await nursery.start(wallet_door(instance, purse).run)
    await fund(purse, GATEWAY_DEPOSIT, GATEWAY_RESERVE)
    base = await build_base(config, "gateway", instance, identity, purse, nursery, life.lifeline.port)
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
        inputs=Keeping(instance.path / "inputs"),
        settlement=purse.chain.settlement,
        reach=base.overlay.reach,
        small_job=SMALL_JOB_DEVELOPMENT if development else SMALL_JOB,
        development=development,
        chance=SystemRandom(),
        nonce=secrets.token_bytes,
        wall_time=time.time,
        policy=config.safety.policy,
        binds=base.overlay.host.binds,
        inspection=Inspection(config.checks.every, config.checks.steps),
    )
    gateway = Gateway(means)
    base.proofs.tell(lambda seller: gateway.reputation.fault(seller, now_ms(), proof=True))
    await nursery.start(lines.run)
    await nursery.start(gateway.run)
    life.drains.append(gateway.drain)
    await say_ready(base, life.lifeline, life.face)


def look_at_machine(instance: Instance) -> None:
    """Say what this node sells with. Raises Misconfigured when results would soon find no room."""
    found, free = probe(), free_disk(instance.path)
    log.info(
        "machine",
        cpu=found.cpu,
        cores=found.cores,
        memory_mb=found.memory_bytes // MB,
        free_memory_mb=found.free_memory_bytes // MB,
        free_disk_mb=free // MB,
    )
    if free < LEAST_DISK:
        raise Misconfigured(
            f"data-dir: {free // MB} MB are free at {instance.path}, and {LEAST_DISK // MB} MB are needed; "
            "make room or name another --data-dir"
        )


def pricing_of(config: Config, machine: object) -> Pricing:
    """What this node asks for each pipeline, on the device of its machine."""
    return Pricing(
        PriceList(config.price, config.prices), costs_of(config), lambda: str(getattr(machine, "device", ""))
    )


def terms_of(config: Config, machine: object, settlement: Settlement, payout: Address) -> Terms:
    """What this node asks. The operator's number of places is for each device, and so the machine's to keep."""
    slots = MOST_SLOTS if config.slots else None
    return Terms(config.price, slots, settlement, payout, pricing_of(config, machine))


async def run_orchestrator(life: Life) -> None:
    """Sells compute: a worker process for each device, offers, quotes, jobs, redemption."""
    config, instance, nursery = life.config, life.instance, life.nursery
    look_at_machine(instance)
    machine = life.machines(config, instance)
    await nursery.start(machine.run)  # first: its libraries take seconds to import, and nothing else waits for them
    purse, identity = await open_purse(config, instance, nursery)
    await nursery.start(wallet_door(instance, purse, model_answers(machine, instance.path, config)).run)
    await fund(purse, 0, 0)
    development, settlement = purse.chain.development, purse.chain.settlement
    terms = ReceivingTerms(lives_for_ms=PARAMS_LIVE_DEVELOPMENT_MS if development else PARAMS_LIVE_MS)
    books = ReceivingBooks(purse.journal, identity, settlement, terms, purse.chain)
    await books.load()
    redeemer = Redeemer(purse.chain, purse.wallet, books)
    await nursery.start(redeemer.run)
    if not development:
        books.redemption_cost = redeemer.redemption_cost  # it follows gas and own receipts
    base = await build_base(config, "orchestrator", instance, identity, purse, nursery, life.lifeline.port)
    supplies = Supplies(
        signer=identity,
        network=base.overlay.host,
        gossip=base.overlay.gossip,
        greeter=base.greeter,
        feed=base.feed,
        machine=machine,
        journal=purse.journal,
        books=books,
        cover=purse.chain,
        look_up=purse.chain.cover_of,
        keeping=Keeping(instance.path / "sealed"),
        terms=terms_of(config, machine, settlement, identity.address),
        small_job=SMALL_JOB_DEVELOPMENT if development else SMALL_JOB,
        development=development,
        wall_time=time.time,
        policy=config.safety.policy,
    )
    orchestrator = Orchestrator(supplies)
    await nursery.start(orchestrator.run)
    life.drains.append(orchestrator.drain)
    await say_ready(base, life.lifeline, life.face)
