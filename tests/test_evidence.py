"""Evidence and verdicts: what hashes tell of an opened trace, and what a stranger's verdict may say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Capability, Dtype, ModelCapability
from compute.checkverdict import FAR, MAX_VERDICT, Finding, Verdict, as_json, from_json, judge, wanted
from compute.digest import ArtifactDigest, digest_bytes
from compute.evidence import (
    MAX_DRAWN,
    MAX_SHOWN_BYTES,
    Evidence,
    Trouble,
    Wrong,
    check_shape,
    check_spec,
    needed,
    openings_wrong,
    with_checks,
)
from compute.spec import MAX_INPUT, TEXT_TO_IMAGE, VERIFY_STEP, Input, Verification
from compute.tolerance import tolerance
from compute.trace import FINISHED, TraceLeaf, leaf_hash, merkle_path, merkle_root
from p2p.codec import decode, encode
from p2p.errors import MalformedMessage
from tests.support.job_specs import job_id, job_spec

JOB = job_id("job")
STEPS = 6
SPEC = job_spec(b"m" * 32, steps=STEPS)
DELIVERED = (ArtifactDigest("image/png", 4, b"d" * 32),)


def leaves(job: bytes = JOB, steps: int = STEPS, size: int = 8) -> tuple[bytes, list[TraceLeaf]]:
    """A whole trace: its root and every leaf."""
    raws = [bytes([k]) * size for k in range(steps + 1)]
    times = [*range(steps, 0, -1), FINISHED]
    hashes = [leaf_hash(job, k, times[k], Dtype.FP32, raw) for k, raw in enumerate(raws)]
    opened = [TraceLeaf(k, times[k], Dtype.FP32, raw, merkle_path(hashes, k)) for k, raw in enumerate(raws)]
    return merkle_root(hashes), opened


def evidence(drawn: tuple[int, ...] = (2, 4)) -> Evidence:
    root, opened = leaves()
    shown = tuple(opened[k] for k in needed(STEPS, drawn))
    return Evidence(JOB, SPEC, Dtype.FP32, DELIVERED, root if drawn else None, drawn, shown)


@given(st.integers(1, 50), st.data())
def test_both_sides_of_every_drawn_step_are_needed_and_both_ends(steps: int, data: st.DataObject) -> None:
    drawn = data.draw(st.sets(st.integers(0, steps - 1), min_size=1, max_size=MAX_DRAWN))
    found = needed(steps, sorted(drawn))
    assert list(found) == sorted(set(found))
    assert {0, steps} <= set(found)
    assert all({k, k + 1} <= set(found) for k in drawn)
    assert len(found) <= 2 * len(drawn) + 2


def test_honest_openings_are_not_wrong_and_travel() -> None:
    shown = evidence()
    assert openings_wrong(shown) == ()
    assert decode(encode(shown)) == shown


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda one: replace(one, raw=b"\xff" * 8), Wrong.WRONG_PROOF),
        (lambda one: replace(one, path=one.path[:-1]), Wrong.WRONG_PROOF),
        (lambda one: replace(one, path=()), Wrong.WRONG_PROOF),
        (lambda one: replace(one, timestep=one.timestep + 1), Wrong.WRONG_PROOF),
        (lambda one: replace(one, timestep=FINISHED), Wrong.WRONG_TIMESTEP),
        (lambda one: replace(one, dtype=Dtype.FP16), Wrong.WRONG_DTYPE),
        (lambda one: replace(one, raw=b"\0" * 9), Wrong.WRONG_SIZE),
    ],
)
def test_every_false_opening_is_found_by_the_hashes_alone(change: object, found: Wrong) -> None:
    shown = evidence()
    assert callable(change)
    bad = replace(shown, leaves=(shown.leaves[0], change(shown.leaves[1]), *shown.leaves[2:]))
    assert Trouble(found, shown.leaves[1].index) in openings_wrong(bad)


def test_a_leaf_that_is_not_there_is_found() -> None:
    shown = evidence()
    assert openings_wrong(replace(shown, leaves=shown.leaves[1:])) == (Trouble(Wrong.NOT_OPENED, 0),)
    assert {one.what for one in openings_wrong(replace(shown, leaves=()))} == {Wrong.NOT_OPENED}


def test_leaves_of_another_job_are_no_proof() -> None:
    root, opened = leaves(job_id("other"))
    shown = replace(evidence(), trace_root=root, leaves=tuple(opened[k] for k in needed(STEPS, (2, 4))))
    assert {one.what for one in openings_wrong(shown)} == {Wrong.WRONG_PROOF}


@pytest.mark.parametrize(
    "change",
    [
        {"drawn": (4, 2)},
        {"drawn": (2, 2)},
        {"drawn": (STEPS,)},
        {"drawn": ()},
        {"trace_root": None},
        {"leaves": tuple(TraceLeaf(k, 1, Dtype.FP32, bytes(4 * 2**20), ()) for k in range(9))},
    ],
)
def test_evidence_that_does_not_go_together_is_none(change: dict[str, object]) -> None:
    assert MAX_SHOWN_BYTES < 9 * 4 * 2**20
    with pytest.raises(ValueError, match=r"drawn|trace|bytes of latents"):
        replace(evidence(), **change)  # type: ignore[arg-type]


def test_a_check_costs_the_steps_that_are_run_again_and_one_more() -> None:
    shape = check_shape(evidence(), 1000)
    assert (shape.pipeline, shape.steps, shape.input_bytes) == (VERIFY_STEP, 3, 1000)
    assert shape.verification is Verification.RECEIPT
    assert shape.units * STEPS == SPEC.shape.units * 3
    assert check_shape(evidence(()), 1000).units == SPEC.shape.units
    spec = check_spec(evidence(), [Input("a/b", 1000, b"i" * 32)], b"s" * 16, "peer")
    assert spec.shape == shape
    assert spec.prompt == ""


def test_whoever_serves_a_model_checks_jobs_of_it() -> None:
    entry = ModelCapability(b"m" * 32, "tiny", TEXT_TO_IMAGE, 64, 256, 8, 4, Dtype.FP32, 90_000, 700, True)
    once = with_checks(Capability((entry,), 2))
    assert with_checks(once) == once
    check = once.find(VERIFY_STEP, b"m" * 32)
    assert check is not None
    assert (check.max_steps, check.max_input, check.warm) == (MAX_DRAWN + 1, MAX_INPUT, True)
    assert once.fits(check_shape(replace(evidence(), spec=job_spec(b"m" * 32, steps=STEPS)), 1000))


# -- verdicts ----------------------------------------------------------------------------------------------------------


def verdict(shown: Evidence, *, nano: int = 0, ppm: int = 0, computed: Dtype = Dtype.FP32) -> Verdict:
    found = tuple(Finding(what, index, nano, ppm) for what, index in wanted(shown))
    return Verdict(digest_bytes(encode(shown)), Dtype.FP32, computed, found)


findings = st.builds(
    Finding, st.sampled_from([Wrong.START, Wrong.STEP]), st.integers(0, 9), st.integers(0, FAR), st.integers(0, FAR)
)


@given(st.lists(findings, max_size=5), st.sampled_from(Dtype), st.booleans())
def test_a_verdict_reads_as_it_was_written(found: list[Finding], dtype: Dtype, wrong: bool) -> None:
    troubles = (Trouble(Wrong.WRONG_TIMESTEP, 3),) if wrong else ()
    told = Verdict(b"e" * 32, Dtype.FP32, dtype, tuple(found), troubles)
    assert from_json(as_json(told, troubles)) == told


anything = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["version", "findings", "what"]), inner)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_no_verdict_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        from_json(data)


def test_hostile_numbers_and_sizes_are_malformed() -> None:
    good = json.loads(as_json(verdict(evidence()), ()))
    row = good["findings"][0]
    for bad in (
        {**good, "findings": [{**row, "nano": -1}]},
        {**good, "findings": [{**row, "nano": 1e300}]},
        {**good, "findings": [{**row, "nano": FAR + 1}]},
        {**good, "findings": [{**row, "nano": True}]},
        {**good, "findings": [{**row, "what": "WRONG_PROOF"}]},
        {**good, "findings": [row] * 1000},
        {**good, "troubles": [{"what": "NONE", "index": 0}]},
        {**good, "evidence": "00"},
        {**good, "committed": "fp64"},
        {**good, "version": 2},
    ):
        with pytest.raises(MalformedMessage):
            from_json(json.dumps(bad).encode())
    with pytest.raises(MalformedMessage):
        from_json(b" " * (MAX_VERDICT + 1))
    with pytest.raises(MalformedMessage):
        from_json(b"[" * 60_000)


def test_distances_are_judged_by_the_declared_bounds() -> None:
    shown, step = evidence(), tolerance(TEXT_TO_IMAGE, Dtype.FP32, Dtype.FP32).step
    assert judge(shown, verdict(shown)) == ()
    at = verdict(shown)
    inside = tuple(replace(f, nano=step.nano, ppm=step.ppm) if f.what is Wrong.STEP else f for f in at.findings)
    assert judge(shown, replace(at, findings=inside)) == ()
    outside = tuple(replace(f, ppm=step.ppm + 1) if f.index == 4 else f for f in inside)
    assert judge(shown, replace(at, findings=outside)) == (Trouble(Wrong.STEP, 4),)
    assert judge(shown, replace(at, findings=outside, computed=Dtype.BF16)) == ()


def test_a_verdict_on_something_else_or_on_less_is_none() -> None:
    shown = evidence()
    good = verdict(shown)
    for bad in (
        replace(good, evidence=b"x" * 32),
        replace(good, committed=Dtype.BF16),
        replace(good, findings=good.findings[1:]),
        replace(good, findings=(*good.findings, good.findings[0])),
        replace(good, findings=()),
    ):
        with pytest.raises(MalformedMessage):
            judge(shown, bad)
    told = replace(good, findings=(), troubles=(Trouble(Wrong.WRONG_TIMESTEP, 2),))
    assert judge(shown, told) == (Trouble(Wrong.WRONG_TIMESTEP, 2),)
