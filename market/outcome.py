"""Outcome: what a bid can come to at its gateway, and how a result is told.

Pure; decides nothing and keeps nothing.
"""

from __future__ import annotations

from market.basket import Bought
from market.bidwire import MAX_TRIED, ArtifactHead, BidCancelled, JobDone, JobFailed, Spent
from market.job import Job
from market.refusal import Refusal
from market.sealing import ref_of
from p2p.peer import PeerId

Outcome = JobDone | JobFailed | BidCancelled | Refusal


def tried(job: Job) -> tuple[PeerId, ...]:
    """Every seller that had the job, in order, the last one last."""
    sellers = [one.seller for one in job.attempts if one.accepted]
    return tuple(dict.fromkeys(reversed(sellers)))[:MAX_TRIED][::-1]


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
