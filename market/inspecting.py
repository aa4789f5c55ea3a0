"""Inspecting: a gateway has some of its own results checked, drawn by chance, and what comes of it counts.

One check at a time, and few wait: what is drawn beyond that is not checked. A verdict is a job of the gateway's own,
for which it pays at most twice what the checked job cost. What is held against a seller was found by hashes alone or by
two verifiers that are neither the seller nor near it: then its standing is gone. A trace that is not opened counts like
a job that was not delivered. Knows no stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from compute.evidence import Evidence
from compute.spec import VERIFY_STEP, JobSpec
from ledger.sending import SendingBooks
from market.basket import Bought
from market.bid import Bid, job_id
from market.bidwire import JobDone
from market.checks import Case, Checked, Conclusion, check_job, read_case
from market.conversation import now_ms
from market.counter import Counter
from market.examining import Open, Told, examine
from market.jobinputs import JobInputs
from market.jobrun import JobRun
from market.keeping import name_of
from market.reputation import Reputation
from p2p.errors import PasarError, Refused, Unavailable
from p2p.peer import PeerId, address_of, peer_text

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

MAX_WAITING = 4  # results with their files, in memory
MAX_HELD = 16 * 2**20  # bytes of files and inputs of one of them
VERDICT_MS = 120_000  # that one may take


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the operator wants: one of so many results (0: none), so many steps of it."""

    every: int = 0
    steps: int = 2


NO_INSPECTION = Inspection()


class Inspector:
    """Told of every result; takes what chance draws."""

    def __init__(
        self,
        wanted: Inspection,
        us: PeerId,
        counter: Callable[[], Counter],
        reputation: Reputation,
        books: SendingBooks,
        opened: Open,
        nonce: Callable[[int], bytes],
    ) -> None:
        self._wanted, self._us, self._counter, self._nonce = wanted, us, counter, nonce
        self._reputation, self._books, self._opened = reputation, books, opened
        self._put, self._take = trio.open_memory_channel[Case](MAX_WAITING)
        self._nursery: trio.Nursery | None = None
        self.ended: list[Checked] = []  # the last of them
        self._news = trio.Event()

    async def delivered(self, spec: JobSpec, bought: Bought, inputs: JobInputs) -> None:
        """A result is here, and its client is served. Takes it when chance says so and there is room."""
        held = sum(len(file.data) for file in bought.files) + spec.shape.input_bytes
        if spec.shape.pipeline == VERIFY_STEP or not self._drawn() or held > MAX_HELD:
            return
        try:
            case = read_case(bought.receipt, [file.data for file in bought.files], spec, await inputs.on_disk())
            self._put.send_nowait(case)
        except trio.WouldBlock:
            log.debug("a result is not checked: others wait")
        except (Refused, Unavailable) as exc:
            log.info("a result cannot be checked", reason=str(exc))

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check what was taken, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            async for case in self._take:
                try:
                    await self._check(case)
                except PasarError as exc:  # one check must not end the others
                    log.warning("a check came to nothing", error=type(exc).__name__, reason=str(exc))

    async def changed(self) -> None:
        """Wait until one more check has ended, and counts."""
        await self._news.wait()

    def _drawn(self) -> bool:
        return bool(self._wanted.every) and int.from_bytes(self._nonce(8), "big") % self._wanted.every == 0

    async def _check(self, case: Case) -> None:
        checked = await examine(case, self._nonce(32), self._wanted.steps, self._opened, partial(self._verdict, case))
        log.info(
            "result checked",
            seller=peer_text(case.seller),
            job=case.receipt.job_id.hex()[:16],
            conclusion=checked.conclusion.value,
            steps=list(checked.drawn),
            verifiers=[peer_text(peer)[-8:] for peer in checked.verifiers],
        )
        await self._count(case.seller, checked.conclusion)
        self.ended = [*self.ended[-15:], checked]
        self._news.set()
        self._news = trio.Event()

    async def _count(self, seller: PeerId, conclusion: Conclusion) -> None:
        if conclusion is Conclusion.FAILED:
            self._reputation.caught(seller, now_ms())
            await self._books.record_fault(address_of(seller))
        elif conclusion is Conclusion.UNOPENED:
            self._reputation.failed(seller, now_ms())

    async def _verdict(self, case: Case, evidence: Evidence, without: Sequence[PeerId]) -> Told:
        """Have one verifier do the check, as a job of our own. Raises Refused, Unavailable."""
        spec, files = check_job(case, evidence, self._nonce(16), without)
        bid = Bid(self._nonce(16), spec, max(1, 2 * case.receipt.price), VERDICT_MS)
        counter, name = self._counter(), job_id(self._us, self._us, bid.nonce)
        run = JobRun(counter, name, self._us, bid, free=True)
        await run.inputs.give(files)
        if self._nursery is None:
            raise Unavailable("the gateway is stopping")
        await self._nursery.start(run.run)
        await run.over.wait()
        outcome = run.outcome
        if not isinstance(outcome, JobDone):
            await run.inputs.drop()
            raise Refused("NO_VERIFIER", str(outcome)[:200])
        kept = await counter.results.get(name_of(name), JobDone)
        await counter.results.drop(name_of(name))
        if kept is None:
            raise Unavailable("the verdict is lost")
        return Told(kept[1][0], PeerId(outcome.orchestrator))
