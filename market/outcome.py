"""Outcome: what a bid can come to at its gateway, and how a result is told.

Decides nothing and keeps nothing; ``market/jobrun.py`` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from market.basket import Bought
from market.bidwire import MAX_TRIED, ArtifactHead, BidCancelled, JobDone, JobFailed, Spent
from market.job import Job
from market.prefilter import Matched
from market.refusal import Code, Refusal
from market.sealing import ref_of
from p2p.peer import PeerId

Outcome = JobDone | JobFailed | BidCancelled | Refusal


def tried(job: Job) -> tuple[PeerId, ...]:
    """Every seller that had the job, in order, the last one last."""
    sellers = [one.seller for one in job.attempts if one.accepted]
    return tuple(dict.fromkeys(reversed(sellers)))[:MAX_TRIED][::-1]


def ended(matched: Matched, limit: int) -> Refusal:
    """Why a bid's time passed for nothing, by what the book would have for it were it to begin now.

    Whoever could serve it, or could a little later, was busy all the while: then the time was what lacked.
    """
    plain = replace(matched.refusal(), limit_wei=limit)
    if not matched.candidates and not matched.waiting:
        return plain
    return replace(plain, code=Code.DEADLINE, hint="nobody had a place in time: allow more time, or try again")


def failed(job: Job, code: str, hint: str) -> JobFailed:
    """How a job that nobody did is told; it costs its client nothing."""
    return JobFailed(job.job_id, code, hint[:512], tried(job), 0)


def charged(outcome: Outcome | None) -> int:
    """What an end without a result cost the customer, in wei."""
    return outcome.charged if isinstance(outcome, JobFailed | BidCancelled) else 0


@dataclass(slots=True)
class Clock:
    """Marks on a job's way, on the gateway's steady clock in milliseconds."""

    arrived: int
    accepted: int = 0

    @property
    def auction_ms(self) -> int:
        """From the bid to the acceptance of its award."""
        return self.accepted - self.arrived


def done(job: Job, bought: Bought, paid: int, *, auction_ms: int, transfer_ms: int) -> JobDone:
    """The result of a delivered job as its client hears of it."""
    times = bought.inside.times
    return JobDone(
        job_id=job.job_id,
        orchestrator=bought.inside.orchestrator,
        tried=tried(job),
        price=bought.price,
        paid=paid,
        limit=job.limit,
        spent=Spent(max(0, auction_ms), times.queued_ms, times.run_ms, max(0, transfer_ms)),
        receipt=bought.receipt,
        artifacts=tuple(
            ArtifactHead(ref.blob, file.media_type, ref.size, ref.digest)
            for file in bought.files
            for ref in [ref_of(file.data)]
        ),
    )
