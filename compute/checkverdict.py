"""Verdict: what a check found, as the JSON that a verifier delivers, and whether that is a pass.

A verifier reports distances; whether they pass is judged by whoever reads them, against ``compute/tolerance.py``. The
text of a verifier comes from a stranger: it is bounded, and what does not parse is no verdict. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from compute.capability import Dtype
from compute.digest import MAX_ARTIFACTS, digest_bytes
from compute.evidence import MAX_DRAWN, MAX_SHOWN, Evidence, Trouble, Wrong
from compute.spec import MAX_STEPS
from compute.tolerance import Bound, Tolerance, tolerance
from p2p.codec import encode
from p2p.errors import MalformedMessage

VERSION = 1
MAX_VERDICT = 64 * 1024  # bytes
MAX_TROUBLES = 4 * MAX_SHOWN
MAX_FINDINGS = 2 + MAX_DRAWN + MAX_ARTIFACTS
FAR = 2**62  # what is no number, or no picture, is so far away
_MEASURED = (Wrong.START, Wrong.STEP, Wrong.PICTURE, Wrong.RESULT)


@dataclass(frozen=True, slots=True)
class Finding:
    """One distance: of the noise, of a step, of the picture, or of one file of a result, in the units of Bound."""

    what: Wrong
    index: int
    nano: int
    ppm: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """``evidence`` is the SHA-256 of the file that was checked; ``computed`` the verifier's own number format."""

    evidence: bytes
    committed: Dtype
    computed: Dtype
    findings: tuple[Finding, ...]
    troubles: tuple[Trouble, ...] = ()


def wanted(evidence: Evidence) -> tuple[tuple[Wrong, int], ...]:
    """What a verdict on this has to measure."""
    if not evidence.drawn:
        return tuple((Wrong.RESULT, at) for at in range(len(evidence.delivered)))
    steps = ((Wrong.STEP, k) for k in evidence.drawn)
    return ((Wrong.START, 0), *steps, (Wrong.PICTURE, evidence.spec.shape.steps))


def judge(evidence: Evidence, verdict: Verdict) -> tuple[Trouble, ...]:
    """What is wrong with the job by this verdict; nothing: it passes. Raises MalformedMessage for one that tells less

    than was asked, or of something else.
    """
    if verdict.evidence != digest_bytes(encode(evidence)):
        raise MalformedMessage("the verdict is about other evidence")
    if verdict.troubles:
        return verdict.troubles
    told = {(one.what, one.index): one for one in verdict.findings}
    asked = wanted(evidence)
    if verdict.committed is not evidence.dtype or set(told) != set(asked) or len(verdict.findings) != len(asked):
        raise MalformedMessage("the verdict is not about what was asked")
    allowed = tolerance(evidence.spec.shape.pipeline, verdict.committed, verdict.computed)
    return tuple(
        Trouble(one.what, one.index)
        for one in (told[what] for what in asked)
        if not bound_of(allowed, one.what).holds(one.nano, one.ppm)
    )


def bound_of(allowed: Tolerance, what: Wrong) -> Bound:
    """The bound that is for this kind of finding."""
    named = {Wrong.START: allowed.start, Wrong.STEP: allowed.step, Wrong.PICTURE: allowed.picture}
    return named.get(what, allowed.result)


def as_json(verdict: Verdict, troubles: tuple[Trouble, ...]) -> bytes:
    """The file that a verifier delivers; ``troubles`` is what ``judge`` makes of it, for people."""
    told = {
        "version": VERSION,
        "evidence": verdict.evidence.hex(),
        "committed": verdict.committed.value,
        "computed": verdict.computed.value,
        "findings": [_row(one.what, one.index) | {"nano": one.nano, "ppm": one.ppm} for one in verdict.findings],
        "troubles": [_row(one.what, one.index) for one in verdict.troubles],
        "passed": not troubles,
        "wrong": [_row(one.what, one.index) for one in troubles],
    }
    return json.dumps(told, separators=(",", ":")).encode()


def from_json(data: bytes) -> Verdict:
    """The verdict in a file. Raises MalformedMessage for every file that holds none."""
    if len(data) > MAX_VERDICT:
        raise MalformedMessage(f"a verdict of {len(data)} bytes")
    try:
        told = json.loads(data)
        if told["version"] != VERSION:
            raise MalformedMessage("a verdict of another version")
        findings = tuple(
            Finding(Wrong(row["what"]), _number(row["index"], MAX_STEPS), _number(row["nano"]), _number(row["ppm"]))
            for row in _rows(told["findings"], MAX_FINDINGS)
        )
        troubles = tuple(
            Trouble(Wrong(row["what"]), _number(row["index"], MAX_STEPS))
            for row in _rows(told["troubles"], MAX_TROUBLES)
        )
        evidence = bytes.fromhex(told["evidence"])
        verdict = Verdict(evidence, Dtype(told["committed"]), Dtype(told["computed"]), findings, troubles)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise MalformedMessage(f"no verdict: {type(exc).__name__}") from exc
    if len(verdict.evidence) != 32 or any(one.what not in _MEASURED for one in findings):
        raise MalformedMessage("no verdict")
    return verdict


def _row(what: Wrong, index: int) -> dict[str, Any]:
    return {"what": what.value, "index": index}


def _rows(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError("no list, or too long")
    return value


def _number(value: Any, most: int = FAR) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("no number, or too large")
    return value
