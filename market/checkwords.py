"""What a check came to, in JSON and in words. Pure."""

from __future__ import annotations

from typing import Any

from compute.capability import Dtype
from compute.checkverdict import Finding, bound_of
from compute.tolerance import tolerance
from market.checks import Case, Checked, Conclusion, words
from p2p.peer import peer_text

_ENDS = {
    Conclusion.PASSED: "passed: what was delivered is what was asked, as far as it was drawn",
    Conclusion.FAILED: "FAILED: the seller did not do what it was paid for",
    Conclusion.DISPUTED: "disputed: one verifier found it wrong, another one right; nothing is held against the seller",
    Conclusion.UNCONFIRMED: "unconfirmed: a verifier found it wrong, and no second one was there",
    Conclusion.UNOPENED: "FAILED: the seller does not open its trace",
    Conclusion.UNVERIFIED: "not verified: nobody gave a verdict",
}


def as_json(case: Case, checked: Checked, cost: int) -> dict[str, Any]:
    """What a program gets."""
    return {
        "conclusion": checked.conclusion.value,
        "passed": checked.conclusion is Conclusion.PASSED,
        "seller": peer_text(case.seller),
        "drawn": list(checked.drawn),
        "verifiers": [peer_text(peer) for peer in checked.verifiers],
        "committed": case.receipt.dtype,
        "computed": checked.computed.value,
        "findings": [_row(case, checked, one) for one in checked.findings],
        "wrong": [{"what": one.what.value, "index": one.index, "text": words(one)} for one in checked.troubles],
        "reason": checked.reason,
        "cost_wei": cost,
    }


def lines(case: Case, checked: Checked, cost: str) -> list[str]:
    """What a person gets."""
    steps = case.spec.shape.steps
    drawn = ", ".join(map(str, checked.drawn))
    told = [f"checked    steps {drawn} of {steps}" if drawn else "checked    the whole job, run again"]
    by = ", ".join(peer_text(peer) for peer in checked.verifiers) or "an own worker, or by the hashes alone"
    told.append(f"by         {by}, for {cost}")
    for one in checked.findings:
        row = _row(case, checked, one)
        name = f"{one.what.value.lower()} {one.index}"
        told.append(
            f"{name:10} off by {one.nano / 1e9:.3g} ({row['allowed_nano'] / 1e9:.3g} allowed), "
            f"{one.ppm} ppm ({row['allowed_ppm']})"
        )
    told += [f"WRONG      {words(one)}" for one in checked.troubles]
    end = _ENDS[checked.conclusion]
    return [*told, f"{end} ({checked.reason})" if checked.reason else end]


def _row(case: Case, checked: Checked, one: Finding) -> dict[str, Any]:
    allowed = tolerance(case.receipt.pipeline, Dtype(case.receipt.dtype), checked.computed)
    bound = bound_of(allowed, one.what)
    return {
        "what": one.what.value,
        "index": one.index,
        "nano": one.nano,
        "ppm": one.ppm,
        "allowed_nano": bound.nano,
        "allowed_ppm": bound.ppm,
    }
