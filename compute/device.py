"""One device and the models on it: loading, making steps of open jobs with their traces, running a step again.

Everything here blocks. Jobs run in one thread of the worker, a model may load in a second one meanwhile; which are
loaded, and when, ``compute/shelf.py`` decides. Imports torch; knows no socket and no other process.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from compute.batching import crowded, fitting, gain_at, limit_of
from compute.calibration import PutOff, calibrate
from compute.capability import GUESSED_SPEED, MAX_LOAD_MS, Dtype, ModelCapability
from compute.catalog import ALSO_SERVED, ModelEntry
from compute.costing import cost_of_denoising, cost_of_piece
from compute.footprint import held_by, taken
from compute.librarian import Brought
from compute.openjob import OpenJob
from compute.pipeline import Finished, Pipeline, Run, Watched
from compute.pipelines.safety_check import SafetyCheck
from compute.pipelines.verify_step import VerifyStep
from compute.previewing import wanted
from compute.replaying import replay_picture, replay_start, replay_step
from compute.spec import DENOISED, VERIFY_STEP, JobShape, JobSpec, Verification
from compute.tracestore import TraceStore
from compute.work import Replay
from p2p.errors import Misconfigured, Refused

GROUP = "pasar.pipelines"
PUT_OFFS = 3  # times that a calibration makes way for a job; then the job waits for it
BUILT_IN = {
    "text-to-image": "compute.pipelines.text_to_image:TextToImage",
    "image-to-image": "compute.pipelines.image_to_image:ImageToImage",
    "audio-to-text": "compute.pipelines.audio_to_text:AudioToText",
    "image-to-text": "compute.pipelines.image_to_text:ImageToText",
    "image-to-video": "compute.pipelines.image_to_video:ImageToVideo",
    "upscale": "compute.pipelines.upscale:Upscale",
    "segment-anything": "compute.pipelines.segment_anything:SegmentAnything",
    "transcode": "compute.pipelines.transcode:Transcode",
}


class Device:
    """The models of one device. ``budget`` is what they may take together; the shelf holds it, not the device.

    ``on_change`` hears of every model that became warm, cold or was measured. ``checker`` looks at every result.
    """

    def __init__(
        self,
        name: str,
        dtype: Dtype,
        entries: tuple[ModelEntry, ...],
        traces: TraceStore,
        budget: int,
        on_change: Callable[[ModelCapability], None],
        checker: SafetyCheck | None = None,
    ) -> None:
        self.name, self.dtype, self._traces, self.budget, self._on_change = name, dtype, traces, budget, on_change
        self._checker = checker
        self._entries = {entry.model: entry for entry in entries}
        self._known = {entry.model: entry.capability(dtype) for entry in entries}
        self._loaded: dict[bytes, Pipeline] = {}
        self._also: dict[tuple[bytes, str], Pipeline] = {}  # other pipelines on loaded models
        self._jobs = 0  # ever begun: a load beside which none ran can be measured by what the process grew
        self._gains_of: dict[tuple[bytes, int], tuple[int, ...]] = {}  # by model and threads
        self._put_off: Counter[bytes] = Counter()

    def load(self, model: bytes) -> Pipeline:
        """The model, loaded when it is not. Raises Misconfigured, Refused."""
        if model not in self._loaded:
            self.bring(model)
        return self._loaded[model]

    def bring(self, model: bytes) -> Brought:
        """Load a model, warm it up, and measure what it took. Raises Misconfigured, Refused."""
        entry = self._entries.get(model)
        if entry is None:
            raise Refused("NO_MODEL", "not a model of this worker")
        jobs, before, started = self._jobs, taken(self.name), time.monotonic()
        pipeline = pipeline_class(entry.pipeline).load(Path(entry.folder), device=self.name, dtype=self.dtype)
        self._warm_up(pipeline, entry)
        for name in ALSO_SERVED.get(entry.pipeline, ()):
            served: Any = pipeline_class(name)
            self._also[model, name] = served.on(pipeline)
        self._loaded[model] = pipeline
        grown = taken(self.name) - before if jobs == self._jobs else 0
        brought = Brought(max(1, held_by(pipeline), grown), _load_ms(started, time.monotonic()))
        self._change(replace(self._known[model], warm=True, load_ms=brought.took_ms))
        return brought

    def put_out(self, model: bytes) -> None:
        """Free what a model takes. Unknown or cold ones change nothing."""
        for name in ALSO_SERVED.get(self._entries[model].pipeline, ()) if model in self._entries else ():
            self._also.pop((model, name), None)
        if self._loaded.pop(model, None) is not None:
            self._change(replace(self._known[model], warm=False))
        gc.collect()
        if self.name.startswith("cuda"):
            torch.cuda.empty_cache()
        with suppress(OSError, AttributeError):  # only glibc has it; without it freed weights stay resident
            ctypes.CDLL(None).malloc_trim(0)

    def begin(
        self,
        job_id: bytes,
        spec: JobSpec,
        files: Sequence[bytes] = (),
        watch: Callable[[int, int], None] | None = None,
    ) -> OpenJob:
        """Give a job its place: encode its words, read its inputs, draw its noise. Raises Refused, Misconfigured.

        ``watch`` is told within a step how many of its pieces are done, where it has some.
        """
        self._jobs += 1
        started = time.monotonic()
        self.load(spec.shape.model)
        checks = spec.shape.pipeline == VERIFY_STEP
        pipeline = VerifyStep(self._serving, self.dtype) if checks else self._serving(spec)
        wanted(spec)  # a preview that cannot be had is refused before anything is worked
        begun = time.monotonic()
        run = pipeline.open(spec, files)
        if watch is not None and isinstance(run, Watched):
            run = run.watched(watch)
        latents = run.start()
        trace = self._traces.begin(job_id, self.dtype, keep=spec.shape.verification is Verification.TRACE)
        job = OpenJob(job_id, spec, pipeline, run, trace, latents, _load_ms(started, begun), begun)
        job.alone_s, job.may_be_seen = time.monotonic() - begun, self._checker is None
        try:
            trace.add(run.timestep_of(0), run.to_bytes(latents))
        except BaseException:
            self.drop(job)
            raise
        return job

    def _serving(self, spec: JobSpec) -> Pipeline:
        """The pipeline that a job asks for, on its model. Raises Refused, Misconfigured."""
        model, name = spec.shape.model, spec.shape.pipeline
        loaded = self.load(model)
        found = loaded if name == self._entries[model].pipeline else self._also.get((model, name))
        if found is None:
            raise Refused("NO_PIPELINE", f"this model does not serve {name[:64]}")
        return found

    def advance(self, jobs: Sequence[OpenJob]) -> None:
        """One step of each, all of one group, together. What it raises leaves every job as it was."""
        started = time.monotonic()
        after = jobs[0].pipeline.step_together([(job.run, job.latents, job.index) for job in jobs])
        raws = [job.run.to_bytes(latents) for job, latents in zip(jobs, after, strict=True)]
        part = gain_at(len(jobs), self._gains(jobs[0].spec.shape)) / (100 * len(jobs))
        own_s = (time.monotonic() - started) * part
        for job, latents, raw in zip(jobs, after, raws, strict=True):
            job.before, job.latents = job.latents, latents
            job.index, job.alone_s = job.index + 1, job.alone_s + own_s
            job.trace.add(job.run.timestep_of(job.index), raw)

    def end(self, job: OpenJob) -> Finished:
        """The result of a job whose steps are done. Its place is free, also when this raises.

        Raises BrokenOutput, and Refused ``POLICY`` for a result that the checker does not let pass.
        """
        model, started = job.spec.shape.model, time.monotonic()
        try:
            artifacts = job.run.finish(job.latents)
            safety = self._checker.look(artifacts) if self._checker is not None else None
            root = job.trace.finish()
        finally:
            self.drop(job)
        now = time.monotonic()
        if job.spec.shape.pipeline != VERIFY_STEP:  # which is counted in the same units, and costs a little more
            self._change(self._known[model].measured(job.spec.shape.units, int((job.alone_s + now - started) * 1000)))
        return Finished(artifacts, root, self.dtype, job.load_ms, _ms_since(job.begun_at), safety)

    def drop(self, job: OpenJob) -> None:
        """Give a job up, or what is left of it. Its place is free."""
        job.trace.discard()

    def predict_ms(self, shape: JobShape, jobs: int) -> int:
        """How long ``shape`` takes from its start when so many jobs run at the same time, itself included."""
        return crowded(self._known[shape.model].predict_ms(shape), jobs, self._gains(shape))

    def sharing(self, shape: JobShape) -> tuple[int, int]:
        """How many jobs of this shape may share a step, and how many microseconds one takes alone."""
        entry, evaluations = self._known[shape.model], shape.width * shape.height * (2 if shape.guided else 1)
        return limit_of(self._gains(shape)), evaluations * 1_000_000 // (entry.units_per_second or GUESSED_SPEED)

    def gains(self, model: bytes) -> tuple[int, ...]:
        """What batches of a model do here, in percent of one alone. A model that was never loaded shares no step."""
        return self._gains_of.get((model, torch.get_num_threads()), (100,))

    def _gains(self, shape: JobShape) -> tuple[int, ...]:
        native = self._entries[shape.model].native_side
        together = (100,) if shape.pipeline == VERIFY_STEP else self.gains(shape.model)  # checks share no step
        return fitting(together, shape.width * shape.height, native * native)

    def replay_step(
        self, spec: JobSpec, index: int, dtype: Dtype, before: bytes, after: bytes, files: Sequence[bytes] = ()
    ) -> Replay:
        """Re-run one step from committed latents and measure the distance from the latents committed after it."""
        return replay_step(self._run_of(spec, files), spec.shape.steps, index, dtype, before, after)

    def replay_start(self, spec: JobSpec, dtype: Dtype, noise: bytes, files: Sequence[bytes] = ()) -> Replay:
        """Compare committed noise with what the seed gives, over the picture in ``files`` where one is drawn over."""
        return replay_start(self._run_of(spec, files), dtype, noise)

    def replay_picture(
        self, spec: JobSpec, dtype: Dtype, latents: bytes, picture: bytes, files: Sequence[bytes] = ()
    ) -> Replay:
        """Compare a delivered picture with what the committed last latents decode to, in fractions of full white."""
        return replay_picture(self._run_of(spec, files), spec, dtype, latents, picture)

    def _run_of(self, spec: JobSpec, files: Sequence[bytes]) -> Run:
        return self._serving(spec).open(spec, files)

    def calibrate(self, model: bytes | None = None, wanted: Callable[[], bool] = lambda: False) -> bool:
        """Measure shared steps of a loaded model, of any when none is named; False when all that was done before.

        Put off until the device is idle or a second job is there, so that a first job has not to wait for it; and a
        few times while the device is ``wanted`` again before it is done.
        """
        threads = torch.get_num_threads()
        missing = [
            m
            for m in tuple(self._loaded)  # another thread may load one
            if (m, threads) not in self._gains_of and model in (None, m) and self._entries[m].pipeline in DENOISED
        ]
        if not missing:
            return False
        entry, pipeline = self._entries[missing[0]], self._loaded[missing[0]]
        spec, clock = _native(entry), self._clock()
        now = wanted if self._put_off[entry.model] < PUT_OFFS else lambda: False
        try:
            self._gains_of[entry.model, threads], step_s = calibrate(pipeline, pipeline.open(spec, ()), clock, now)
        except PutOff:
            self._put_off[entry.model] += 1
            return True
        cost = cost_of_denoising(pipeline, spec, step_s, clock)
        units = entry.native_side**2 * 2000
        self._change(replace(self._known[entry.model].measured(units, int(step_s * 1_000_000)), unit_ps=cost))
        return True

    def _warm_up(self, pipeline: Pipeline, entry: ModelEntry) -> None:
        """A step at native size and its picture: pages the weights in and gives a first speed."""
        if entry.pipeline not in DENOISED:
            return self._try_out(pipeline, entry)
        spec = _native(entry)
        run = pipeline.open(spec, ())
        latents = run.start()
        started = time.monotonic()
        run.finish(pipeline.step_together([(run, latents, 0)])[0])
        units = spec.shape.width * spec.shape.height * 2
        self._known[entry.model] = self._known[entry.model].measured(units, _ms_since(started))

    def _clock(self) -> Callable[[], float]:
        return time.thread_time if self.name == "cpu" and torch.get_num_threads() == 1 else time.monotonic

    def _try_out(self, pipeline: Pipeline, entry: ModelEntry) -> None:
        """A job of the pipeline's own choice: it runs once to page the weights in, and then it is measured."""
        plain = JobShape(entry.pipeline, entry.model, 0, 0, 1, False, verification=Verification.RECEIPT)
        spec, files = pipeline.trial(plain)
        run = pipeline.open(spec, files)
        run.finish(pipeline.step_together([(run, run.start(), 0)])[0])
        cost, took_s = cost_of_piece(pipeline, spec, files, self._clock())
        known = self._known[entry.model].measured(spec.shape.units * 1000, int(took_s * 1_000_000))
        self._known[entry.model] = replace(known, unit_ps=cost)

    def _change(self, entry: ModelCapability) -> None:
        self._known[entry.model] = entry
        self._on_change(entry)


def pick(device: str, dtype: str) -> tuple[str, Dtype]:
    """Resolve ``auto`` to what this machine has. Raises Misconfigured for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as exc:  # torch asserts that it was compiled for the device
        raise Misconfigured(f"device {device} cannot be used: {exc}") from exc
    if dtype == "auto":
        return device, Dtype.FP32 if device == "cpu" else Dtype.FP16
    return device, Dtype(dtype)


def describe(device: str) -> str:
    """The device's name for people."""
    return str(torch.cuda.get_device_name(device))[:96] if device.startswith("cuda") else device


def pipeline_class(name: str) -> type[Pipeline]:
    """The class that serves a pipeline, from the entry points, or the built-in one in a bare checkout."""
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is not None:
        loaded: type[Pipeline] = found.load()
        return loaded
    if name not in BUILT_IN:
        raise Misconfigured(f"no pipeline named {name[:64]} is installed")
    module, _, attribute = BUILT_IN[name].partition(":")
    built_in: type[Pipeline] = getattr(import_module(module), attribute)
    return built_in


def _native(entry: ModelEntry) -> JobSpec:
    """A guided job of the size that a model was made for."""
    side = max(entry.side_step, entry.native_side - entry.native_side % entry.side_step)
    return JobSpec(JobShape(entry.pipeline, entry.model, side, side, 1, True), "", "", 2000, 0, bytes(16))


def _load_ms(started: float, ended: float) -> int:
    return min(MAX_LOAD_MS, int((ended - started) * 1000))


def _ms_since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)
