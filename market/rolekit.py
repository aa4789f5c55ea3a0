"""Rolekit: the parts that every role is built from: its money, its place in the network, its READY line.

    open_purse -> fund -> build_base -> (the role serves) -> say_ready

Everything that must fail before the node listens or announces itself fails in ``open_purse``. Knows no role's inside.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from compute.spec import (
    AUDIO_TO_TEXT,
    IMAGE_TO_IMAGE,
    IMAGE_TO_TEXT,
    IMAGE_TO_VIDEO,
    SEGMENT_ANYTHING,
    TEXT_TO_IMAGE,
    TRANSCODE,
    UPSCALE,
    VERIFY_STEP,
)
from ledger.auditor import Auditor
from ledger.chain import Chain
from ledger.devchain import ensure_devchain
from ledger.journal import Journal
from ledger.money import ETH
from ledger.transaction_rows import JournalTransactions
from ledger.wallet import Wallet
from market.bookfeed import BookFeed
from market.config import Config, Role, passphrase_of
from market.hello import Greeter
from market.instance import Instance, MeetingPoint, meet
from market.lifeline import Lifeline
from market.overlay import Overlay, Wiring, open_book
from market.proofkeeper import ProofKeeper
from market.whereabouts import Whereabouts
from p2p.addresses import listen_parts, parse_target
from p2p.errors import Misconfigured, Unavailable
from p2p.identity import Identity, load_or_create
from p2p.limits import PortClaim
from p2p.peer import address_text, parse_address, peer_text

if TYPE_CHECKING:
    from market.http.app import Status
    from market.http.face import Face

log = structlog.get_logger("node")

PIPELINES = (
    *(TEXT_TO_IMAGE, IMAGE_TO_IMAGE, IMAGE_TO_VIDEO, UPSCALE),
    *(AUDIO_TO_TEXT, IMAGE_TO_TEXT, SEGMENT_ANYTHING, TRANSCODE, VERIFY_STEP),
)
GAS_MONEY = ETH // 100
BOOK_S = 5.0  # that a neighbour's book may take before we are ready without it

# Whom each role is found as, and whom it wants to be connected with.
KINDS: dict[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bootstrap": (("bootstrap",), ()),
    "gateway": (("gateway",), ("orchestrator",)),
    "orchestrator": (("orchestrator",), ("gateway",)),
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
    proofs: ProofKeeper


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
    config: Config,
    role: Role,
    instance: Instance,
    identity: Identity,
    purse: Purse | None,
    nursery: trio.Nursery,
    port: int = 0,
) -> Base:
    """Network and book; started means connected, topics joined, newcomers served. ``port``: where others know us."""
    point = meet(config.home, config.local_port, may_hold=not config.listen) if config.local_bootstrap else None
    kinds, wanted = KINDS[role]
    wiring = Wiring(
        network=config.network,
        listen=same_port(config.listen or (listen_locally(point),), port),
        announce=config.announce,
        targets=tuple(parse_target(addr) for addr in config.bootstrap),
        local=point,
        kinds=kinds,
        wanted=wanted,
        strict_private=config.strict_private,
        must_be_dialled=role != "orchestrator",
        lan=config.lan,
    )
    greeter = Greeter(config.network, role, lambda: purse.chain.settlement if purse else None, time.time)
    overlay = Overlay(identity, wiring, await open_book(instance.path, time.time), time.time)
    feed = BookFeed(overlay.host, overlay.gossip, greeter, PIPELINES, time.time)
    await nursery.start(overlay.run)
    await nursery.start(feed.run)
    await nursery.start(Whereabouts(overlay.host, feed.book, PIPELINES, overlay.host.subnet_of).run)
    proofs = ProofKeeper(overlay.host, greeter, feed.book, instance.path / "proofs", time.time)
    await nursery.start(proofs.run)
    return Base(config, role, instance, identity, overlay, greeter, feed, proofs)


def listen_locally(point: MeetingPoint | None) -> str:
    return point.addr if point is not None and point.ours else "/ip4/127.0.0.1/tcp/0"


def same_port(listen: tuple[str, ...], port: int) -> tuple[str, ...]:
    """Where a free port would do, the one that others know us by, if it is still to be had."""
    if not port or len(listen) != 1:
        return listen
    ip, wanted, addr = listen_parts(listen[0])
    if wanted:
        return listen
    try:
        PortClaim(ip, port).release()
    except Misconfigured:
        return listen
    return (f"{addr.removesuffix('/0')}/{port}",)


async def say_ready(base: Base, lifeline: Lifeline, face: Face | None = None) -> None:
    """Records put, a neighbour's book taken; then the one line on stdout, which a restarted node does not repeat."""
    await base.overlay.put_records()
    await base.overlay.look_once()
    if base.overlay.host.connected():
        with trio.move_on_after(BOOK_S):
            await base.feed.caught_up.wait()
    ready = {
        "role": base.role,
        "peer_id": peer_text(base.identity.peer),
        "addrs": base.overlay.host.addrs(),
        "address": address_text(base.identity.address),
        "http": face.url if face else None,
    }
    if face is not None:
        face.show(lambda: status_of(base))
    _, port, _ = listen_parts(base.overlay.host.addrs()[0].partition("/p2p/")[0])
    if await lifeline.ready(port):
        print("READY " + json.dumps(ready), flush=True)
    else:
        log.info("ready again", **ready)


def status_of(base: Base) -> Status:
    """How a ready node stands."""
    from market.http.app import Status

    return Status(
        role=base.role,
        network=base.config.network,
        ready=True,
        peer_id=peer_text(base.identity.peer),
        connected=len(tuple(base.overlay.host.connected())),
        offers=len(base.feed.book),
    )
