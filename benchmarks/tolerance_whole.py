"""For ``tolerance``: whole jobs of the pipelines without steps, by one and by two threads, and made cheaper.

What they work on is drawn by the bundled text-to-image model, and a sound of noise.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import Say, goal
from benchmarks.tolerance_runs import commit, load, spec, threads
from compute.capability import Dtype
from compute.closeness import closeness
from compute.device import pipeline_class
from compute.digestcache import DigestCache
from compute.modelfolder import bundled_names, read_folder
from compute.pipeline import Pipeline
from compute.spec import (
    AUDIO_TO_TEXT,
    DENOISED,
    IMAGE_TO_VIDEO,
    SEGMENT_ANYTHING,
    TRANSCODE,
    UPSCALE,
    Artifact,
    Input,
    JobShape,
    JobSpec,
    Option,
    Verification,
)
from compute.tolerance import tolerance
from compute.work import Replay

MODELS = Path(__file__).parent.parent / "compute" / "models"
SIDE, FRAMES = 64, 8
OPTIONS = {SEGMENT_ANYTHING: (Option("points", "[[32,32]]"),), IMAGE_TO_VIDEO: (Option("motion", "pan-left"),)}


def whole(say: Say) -> tuple[dict[str, Any], list[Any]]:
    """Distances of every file, and whether they stay within what is declared for results."""
    with threads(1):
        picture = _png(commit(load(Dtype.FP32), spec("a red circle on a blue background", SIDE, 12, 4000, 1)).pixels)
    found: dict[str, Any] = {}
    goals = []
    for name in bundled_names():
        entry = read_folder(MODELS / name, DigestCache())
        if entry.pipeline in DENOISED or entry.pipeline == TRANSCODE:  # films have no number format to differ by
            continue
        kind = pipeline_class(entry.pipeline)
        model = kind.load(MODELS / name, device="cpu", dtype=Dtype.FP32)
        job, files = _job(model, entry.pipeline, picture)
        with threads(1):
            alone = _results(model, job, files)
            coarse = _results(kind.load(MODELS / name, device="cpu", dtype=Dtype.BF16), job, files)
        with threads(2):
            both = _results(model, job, files)
        bounds = [tolerance(entry.pipeline, Dtype.FP32, dtype).result for dtype in (Dtype.FP32, Dtype.BF16)]
        for what, other, bound in (("two threads", both, bounds[0]), ("bf16", coarse, bounds[1])):
            apart = _apart(alone, other)
            say(f"  whole  {entry.pipeline}, {what}: {[[a.max_diff_nano, a.relative_ppm] for a in apart]}")
            found[f"{entry.pipeline}, {what}"] = [[a.max_diff_nano, a.relative_ppm] for a in apart]
            inside = all(bound.holds(a.max_diff_nano, a.relative_ppm) for a in apart)
            goals.append(goal(f"{entry.pipeline} run again whole, {what}: inside its bound", int(inside), ">=", 1))
        if entry.pipeline == UPSCALE:
            goals.append(_bicubic(picture, alone))
    return found, goals


def _apart(ones: Sequence[Artifact], others: Sequence[Artifact]) -> list[Replay]:
    return [closeness(one, other) for one, other in zip(ones, others, strict=True)]


def _results(model: Pipeline, job: JobSpec, files: Sequence[bytes]) -> tuple[Artifact, ...]:
    run = model.open(job, files)
    return run.finish(run.step(run.start(), 0))


def _job(model: Pipeline, pipeline: str, picture: bytes) -> tuple[JobSpec, Sequence[bytes]]:
    plain = JobShape(pipeline, bytes(32), 0, 0, 1, False, verification=Verification.RECEIPT)
    if pipeline == AUDIO_TO_TEXT:
        return model.trial(plain)
    larger = 2 if pipeline == UPSCALE else 1
    length = FRAMES if pipeline == IMAGE_TO_VIDEO else 0
    shape = replace(plain, width=SIDE * larger, height=SIDE * larger, length=length, input_bytes=len(picture))
    file = Input("image/png", len(picture), sha256(picture).digest())
    return JobSpec(shape, "", "", 0, 0, bytes(16), (file,), OPTIONS.get(pipeline, ())), (picture,)


def _bicubic(picture: bytes, honest: Sequence[Artifact]) -> Any:
    """The cheapest false upscale there is: no network at all."""
    with Image.open(io.BytesIO(picture)) as small:
        cheap = _png(np.asarray(small.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)))
    apart = closeness(Artifact("image/png", cheap), honest[0])
    bound = tolerance(UPSCALE, Dtype.FP32, Dtype.FP32).result
    return goal(
        "bicubic said to be upscale, over the bound of a result", round(apart.relative_ppm / bound.ppm, 2), ">=", 2
    )


def _png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
