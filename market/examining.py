"""Examining: one check from its draw to its conclusion, whoever opens the leaves and whoever judges them.

    draw -> leaves -> hashes -> a first verifier -> passed
                                                 -> a second one -> failed, or disputed

Shell: waits for others. Knows neither how leaves are asked for nor how a verdict is bought.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from compute.checkverdict import Verdict, from_json, judge
from compute.evidence import Evidence, Trouble, openings_wrong
from compute.trace import TraceLeaf
from market.checks import Case, Checked, Conclusion, ask_for, draw, evidence_for
from market.tracewire import TraceAsk
from p2p.errors import MalformedMessage, PeerFault, Refused, Unavailable
from p2p.peer import PeerId, peer_text

log = structlog.get_logger(__name__)

MAX_VERIFIERS = 3  # that are asked for one verdict: some give none


@dataclass(frozen=True, slots=True)
class Told:
    """What a verifier delivered; ``by`` is None for an own worker."""

    file: bytes
    by: PeerId | None = None


Open = Callable[[TraceAsk], Awaitable[Sequence[TraceLeaf]]]
Verify = Callable[[Evidence, Sequence[PeerId]], Awaitable[Told]]


async def examine(case: Case, challenge: bytes, count: int, opened: Open, verify: Verify) -> Checked:
    """Check one result. ``verify(evidence, without)`` raises Refused or Unavailable when nobody is there to do it.

    Raises Refused for a case that cannot be put into evidence.
    """
    drawn = draw(case, challenge, count)
    leaves: Sequence[TraceLeaf] = ()
    if drawn:
        try:
            leaves = await opened(ask_for(case, drawn))
        except (Refused, Unavailable, PeerFault) as exc:
            return Checked(Conclusion.UNOPENED, drawn, reason=str(exc))
    evidence = evidence_for(case, drawn, leaves)
    wrong = openings_wrong(evidence)
    if wrong:
        return Checked(Conclusion.FAILED, drawn, wrong, reason="by the hashes alone")
    first = await _ask(case, evidence, verify, ())
    if first is None:
        return Checked(Conclusion.UNVERIFIED, drawn, reason="no verifier gave a verdict")
    if not first.troubles:
        return first
    if not first.verifiers:  # our own worker
        return replace(first, conclusion=Conclusion.FAILED)
    second = await _ask(case, evidence, verify, first.verifiers)
    if second is None:
        return replace(first, conclusion=Conclusion.UNCONFIRMED, reason="no second verifier gave a verdict")
    both = (*first.verifiers, *second.verifiers)
    conclusion = Conclusion.FAILED if second.troubles else Conclusion.DISPUTED
    return replace(first, conclusion=conclusion, verifiers=both)


async def _ask(case: Case, evidence: Evidence, verify: Verify, before: Sequence[PeerId]) -> Checked | None:
    """A verdict of one verifier that is neither the seller nor one of ``before``; None when nobody gives one."""
    without = [case.seller, *before]
    for _ in range(MAX_VERIFIERS):
        try:
            told = await verify(evidence, without)
        except (Refused, Unavailable) as exc:
            log.info("no verifier", reason=str(exc))
            return None
        by = () if told.by is None else (told.by,)
        try:
            if told.by in without:
                raise MalformedMessage("checked by whom it must not be")
            verdict = from_json(told.file)
            troubles: tuple[Trouble, ...] = judge(evidence, verdict)
        except MalformedMessage as exc:
            log.warning("a verdict that is none", by=peer_text(told.by) if told.by else "", reason=str(exc))
            if told.by is None:
                return None
            without.append(told.by)
            continue
        return _checked(evidence, verdict, troubles, by)
    return None


def _checked(evidence: Evidence, verdict: Verdict, troubles: tuple[Trouble, ...], by: tuple[PeerId, ...]) -> Checked:
    return Checked(
        Conclusion.PASSED, evidence.drawn, troubles, verdict.findings, verdict.computed, by
    )  # which is what it stays where nothing is wrong
