"""Checks a finished job of somebody else's: runs drawn steps of its trace again, or, where it left none, the whole job.

It stands on the loaded model that the job was made with, and on whichever pipeline that job was one of, so whoever
serves a model can check jobs of it. What comes out is a verdict: distances, and what is wrong in the bytes alone. A job
that cannot be judged, because of what the buyer of the check sent, is refused; whatever its seller committed to is
judged. Runs inside a worker; knows no price.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from compute.capability import Dtype
from compute.checkverdict import Finding, Verdict, as_json, judge
from compute.closeness import closeness
from compute.evidence import MAX_EVIDENCE, WITHOUT, Evidence, Trouble, Wrong, check_shape, openings_wrong
from compute.pipeline import Pipeline, Run, Turn
from compute.pipelines.piecework import Piecework, Progress, check_options, one_by_one
from compute.replaying import NOWHERE, replay_picture, replay_start, replay_step
from compute.spec import DENOISED, VERIFY_STEP, Artifact, JobSpec
from compute.trace import TraceLeaf
from compute.work import Replay
from p2p.codec import decode_as
from p2p.errors import MalformedMessage, Refused, UnknownMessage

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class VerifyStep:
    """The checks that one device does. ``serving`` finds the pipeline that ran a job, on its model. Holds no state."""

    serving: Callable[[JobSpec], Pipeline]
    dtype: Dtype

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Piecework:
        """Read the evidence and find its files. Raises Refused for evidence that nothing can be said of."""
        check_options(spec, WITHOUT)
        evidence, beside = read(spec, files)
        run = self.serving(evidence.spec).open(evidence.spec, [beside[one.digest] for one in evidence.spec.inputs])
        delivered = [Artifact(one.media_type, beside[one.digest]) for one in evidence.delivered]
        name = sha256(files[0]).digest()

        def work(progress: Progress) -> tuple[Artifact, ...]:
            troubles = openings_wrong(evidence) or _timesteps_wrong(evidence, run)
            findings: tuple[Finding, ...] = ()
            if not troubles:
                check = _Steps(evidence, run, delivered, progress) if evidence.drawn else None
                findings = check.findings() if check else _whole(evidence, run, delivered, progress)
            verdict = Verdict(name, evidence.dtype, self.dtype, findings, troubles)
            return (Artifact(JSON, as_json(verdict, judge(evidence, verdict))),)

        return Piecework(work)

    def step_together(self, turns: Sequence[Turn[Piecework]]) -> list[object]:
        """One job after the other."""
        return one_by_one(turns)


def read(spec: JobSpec, files: Sequence[bytes]) -> tuple[Evidence, Mapping[bytes, bytes]]:
    """The evidence, and the files beside it by their digests. Raises Refused when they do not go together, or with

    what this check was priced for.
    """
    try:
        evidence = decode_as(Evidence, files[0] if files else b"", MAX_EVIDENCE)
    except (MalformedMessage, UnknownMessage) as exc:
        raise Refused("BAD_INPUT", f"the first file is no evidence: {str(exc)[:200]}") from exc
    if evidence.spec.shape.pipeline == VERIFY_STEP:
        raise Refused("BAD_INPUT", "checks are not checked")
    if check_shape(evidence, spec.shape.input_bytes) != spec.shape or evidence.spec.guidance != spec.guidance:
        raise Refused("BAD_INPUT", "the check was priced for another job")
    if evidence.drawn and evidence.spec.shape.pipeline not in DENOISED:
        raise Refused("BAD_INPUT", f"{evidence.spec.shape.pipeline} has no steps; check the whole job")
    beside = {sha256(data).digest(): data for data in files[1:]}
    named = {one.digest for one in evidence.delivered} | {one.digest for one in evidence.spec.inputs}
    if not named <= set(beside):
        raise Refused("BAD_INPUT", "a file that the evidence names is not there", have=len(files) - 1)
    return evidence, beside


def _timesteps_wrong(evidence: Evidence, run: Run) -> tuple[Trouble, ...]:
    return tuple(
        Trouble(Wrong.WRONG_TIMESTEP, leaf.index)
        for leaf in evidence.leaves
        if leaf.timestep != run.timestep_of(leaf.index)
    )


@dataclass(frozen=True, slots=True)
class _Steps:
    """A check of drawn steps, of the noise they came from and of the picture they led to."""

    evidence: Evidence
    run: Run
    delivered: Sequence[Artifact]
    progress: Progress

    def findings(self) -> tuple[Finding, ...]:
        """Noise first, then the steps in their order, then the picture."""
        evidence, steps = self.evidence, self.evidence.spec.shape.steps
        found = [self._found(Wrong.START, 0, self._start())]
        for done, index in enumerate(evidence.drawn):
            self.progress(done, len(evidence.drawn) + 1)
            found.append(self._found(Wrong.STEP, index, self._step(index)))
        self.progress(len(evidence.drawn), len(evidence.drawn) + 1)
        return (*found, self._found(Wrong.PICTURE, steps, self._picture()))

    def _found(self, what: Wrong, index: int, replay: Replay) -> Finding:
        return Finding(what, index, replay.max_diff_nano, replay.relative_ppm)

    def _start(self) -> Replay:
        return self._measured(lambda: replay_start(self.run, self.evidence.dtype, self._leaf(0).raw))

    def _step(self, index: int) -> Replay:
        before, after, steps = self._leaf(index).raw, self._leaf(index + 1).raw, self.evidence.spec.shape.steps
        return self._measured(lambda: replay_step(self.run, steps, index, self.evidence.dtype, before, after))

    def _picture(self) -> Replay:
        spec = self.evidence.spec
        last = self._leaf(spec.shape.steps).raw
        picture = self.delivered[0].data
        return self._measured(lambda: replay_picture(self.run, spec, self.evidence.dtype, last, picture))

    def _leaf(self, index: int) -> TraceLeaf:
        leaf = self.evidence.leaf(index)
        assert leaf is not None  # openings_wrong found none missing
        return leaf

    def _measured(self, replay: Callable[[], Replay]) -> Replay:
        """What the seller committed to and is no latents, or no picture, is as far off as can be."""
        try:
            return replay()
        except Refused:
            return NOWHERE


def _whole(evidence: Evidence, run: Run, delivered: Sequence[Artifact], progress: Progress) -> tuple[Finding, ...]:
    """Every step from the start, and what came out against what was delivered, file by file."""
    state = run.start()
    for index in range(evidence.spec.shape.steps):
        progress(index, evidence.spec.shape.steps)
        state = run.step(state, index)
    made = run.finish(state)
    found = []
    for place, theirs in enumerate(delivered):
        apart = closeness(theirs, made[place]) if place < len(made) else NOWHERE
        if place == 0 and len(made) != len(delivered):
            apart = NOWHERE
        found.append(Finding(Wrong.RESULT, place, apart.max_diff_nano, apart.relative_ppm))
    return tuple(found)
