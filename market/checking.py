"""Checking: what ``verify --steps`` does: draw steps of a bought result, have them opened, have them run again.

The leaves come from the seller where it can be reached, else through the gateway that bought from it. They are judged
by a verifier of the market that is neither, bought like any other job, or by a worker of our own.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
import trio

from compute.catalog import ModelEntry
from compute.evidence import Evidence
from compute.modelfolder import bundled_names, read_folder
from compute.spec import VERIFY_STEP
from compute.trace import TraceLeaf
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from ledger.money import wei_text
from market.checks import Case, Checked, check_job
from market.client import Client, Delivered, Wish, bid_for, choose_model
from market.config import Config
from market.examining import Told, examine
from market.hello import Greeter
from market.instance import claim
from market.lightclient import find_gateways, greeter_of, join
from market.modeldoor import cache_of, store_of
from market.overlay import Overlay
from market.refusal import Refusal
from market.tracedesk import ask_leaves
from market.tracewire import TraceAsk
from p2p.errors import Misconfigured, PeerFault, Refused, Unavailable
from p2p.peer import PeerId, peer_text

log = structlog.get_logger(__name__)

REACH_S = 5.0  # that a seller may take to be reached before its gateway is asked


@dataclass(frozen=True, slots=True)
class CheckErrand:
    """One ``verify --steps`` on the command line. ``limit`` 0: what is usual."""

    case: Case
    steps: int
    own: bool = False
    limit: int = 0
    deadline_ms: int = 120_000


@dataclass(slots=True)
class Outcome:
    """A check as it is told: its conclusion, and what it cost. ``None`` for the former: no gateway was found."""

    checked: Checked | None = None
    cost: int = 0
    receipts: list[bytes] = field(default_factory=list)


async def run_check(config: Config, errand: CheckErrand) -> Outcome:
    """Do the errand. Raises Misconfigured, Refused."""
    instance, outcome = claim(config.home, config.network, "client", config.data_dir), Outcome()
    try:
        async with trio.open_nursery() as nursery:
            overlay = await join(config, instance.path, nursery)
            greeter = greeter_of(config)
            gateways = await find_gateways(overlay)
            opened = partial(_opened, overlay, greeter, errand.case)
            if errand.own:
                async with own_verifier(config, errand.case) as verify:
                    outcome.checked = await examine(errand.case, secrets.token_bytes(32), errand.steps, opened, verify)
            elif gateways:
                client = Client(overlay.host, greeter, overlay.reach)
                buying = Buying(client, gateways, errand, outcome)
                outcome.checked = await examine(
                    errand.case, secrets.token_bytes(32), errand.steps, opened, buying.verify
                )
            nursery.cancel_scope.cancel()
    finally:
        instance.release()
    return outcome


async def _opened(overlay: Overlay, greeter: Greeter, case: Case, ask: TraceAsk) -> Sequence[TraceLeaf]:
    """From the seller, or through the gateway that bought from it. Raises Refused, Unavailable, PeerFault."""
    try:
        with trio.fail_after(REACH_S):
            await overlay.reach(case.seller)
    except (Unavailable, trio.TooSlowError) as exc:
        log.debug("the seller is not reached; asking its gateway", reason=str(exc))
        return await ask_leaves(overlay.host, greeter, overlay.reach, PeerId(case.receipt.gateway), ask)
    return await ask_leaves(overlay.host, greeter, overlay.reach, case.seller, ask)


class Buying:
    """Verdicts bought through gateways: the first that has somebody to ask sells all of them."""

    def __init__(self, client: Client, gateways: Sequence[PeerId], errand: CheckErrand, outcome: Outcome) -> None:
        self._client, self._gateways, self._errand, self._outcome = client, gateways, errand, outcome

    async def verify(self, evidence: Evidence, without: Sequence[PeerId]) -> Told:
        """One verdict. Raises Refused, Unavailable."""
        spec, files = check_job(self._errand.case, evidence, secrets.token_bytes(16), without)
        reason = ""
        for gateway in self._gateways:
            try:
                offered = await self._client.models(gateway, VERIFY_STEP)
                wish = Wish(
                    "", width=spec.shape.width, height=spec.shape.height, steps=spec.shape.steps,
                    guidance=spec.guidance, seed=0, model=spec.shape.model.hex(), limit=self._errand.limit,
                    deadline_ms=self._errand.deadline_ms, length=spec.shape.length, inputs=spec.inputs,
                    options=spec.options,
                )  # fmt: skip
                model = choose_model(offered, wish)
                if isinstance(model, Refusal):
                    raise Refused(model.code.value, model.hint)
                bid = bid_for(wish, model, VERIFY_STEP, secrets.token_bytes)
                ending = await self._client.bid(gateway, bid, lambda news: None, files=files)
                if isinstance(ending, Delivered):
                    self._outcome.cost += ending.done.price
                    self._outcome.receipts.append(ending.done.receipt)
                    return Told(ending.files[0], PeerId(ending.receipt.orchestrator))
                reason = str(ending) if isinstance(ending, Refusal) else type(ending).__name__
            except (Refused, Unavailable, PeerFault) as exc:
                reason = str(exc)
            log.info("no verdict here", gateway=peer_text(gateway), reason=reason)
        raise Refused("NO_VERIFIER", reason[:300])


@asynccontextmanager
async def own_verifier(config: Config, case: Case) -> AsyncGenerator[_OwnVerifier]:
    """A worker of our own with the model of the case. Raises Misconfigured where that model is not here."""
    entry = await trio.to_thread.run_sync(_entry_of, config, case.receipt.model)
    with tempfile.TemporaryDirectory(prefix="pasar-check-") as scratch:
        told = WorkerConfig(
            Path(scratch), (Path(entry.folder),), threads=config.threads, memory=config.shelf.memory,
            digest_store=config.home / "digests.json",
        )  # fmt: skip
        worker = Worker(told)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield _OwnVerifier(worker, case)
            nursery.cancel_scope.cancel()


class _OwnVerifier:
    """Called like a purchase."""

    def __init__(self, worker: Worker, case: Case) -> None:
        self._worker, self._case = worker, case

    async def __call__(self, evidence: Evidence, without: Sequence[PeerId]) -> Told:
        spec, files = check_job(self._case, evidence, secrets.token_bytes(16), ())
        result = await self._worker.generate(secrets.token_bytes(32), spec, lambda step: None, files)
        return Told(result.artifacts[0].data)


def _entry_of(config: Config, model: bytes) -> ModelEntry:
    """The folder of a model by its hash, among those that are served here or were pulled. Blocks."""
    store, cache = store_of(config), cache_of(config)
    folders = [store.require(name) for name in (*config.models, *bundled_names())]
    for folder in [*folders, *(kept.folder for kept in store.kept())]:
        try:
            entry = read_folder(folder, cache)
        except Misconfigured as exc:
            log.debug("a folder that is no model", reason=str(exc))
            continue
        if entry.model == model:
            return entry
    raise Misconfigured(f"own: the model {model.hex()[:16]} is not here; name its folder with PASAR_MODELS, or pull it")


def kept_in_time(case: Case, now: float | None = None) -> bool:
    """Whether the seller's word to keep the trace still holds."""
    at = time.time() if now is None else now
    return case.receipt.trace_kept_until >= at * 1000


def price_of(outcome: Outcome) -> str:
    """What the check cost, for people."""
    return wei_text(outcome.cost) if outcome.cost else "nothing"
