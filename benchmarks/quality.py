"""What each bundled model gets right on examples that were kept out of its training, through the pipelines as they run.

Judged by code that shares nothing with the trainers: pixels for pictures, words for text. Knows models as folders.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import captioncheck, model, pixelcheck, quality_moves, quality_over
from benchmarks.pixelcheck import Mask, things_in
from benchmarks.prompts import PROMPTS, Prompt
from benchmarks.report import Report, Say, goal
from compute.batching import MAX_OPEN
from compute.capability import Dtype
from compute.imagefile import read_picture
from compute.modelfolder import bundled, read_folder
from compute.offline import go_offline, hush
from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec

SPEECH: Final = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "speech"
_SENTENCES: Final = 100
_PICTURES: Final = 150
_SIDE: Final = 64

Part = Callable[[Say], tuple[dict[str, Any], list[dict[str, Any]]]]


def run(say: Say) -> Report:
    """Every model in turn; each gives its rates and its goals."""
    go_offline()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in a worker
    hush()
    results, goals = {}, []
    for name, part in PARTS.items():
        if not bundled(_FOLDERS[name]).is_dir():
            say(f"{name}: the bundled model is not here")
            goals.append(goal(f"{name}: a bundled model", 0, ">=", 1))
            continue
        started = perf_counter()
        results[name], wanted = part(say)
        say(f"{name}, {perf_counter() - started:.0f} s: {results[name]}")
        goals += [{**one, "what": f"{name}: {one['what']}"} for one in wanted]
    return {"results": results, "goals": goals}


def text_to_image(say: Say) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The sixty prompts of the benchmark ``model``, at the size it draws best, in steps that they share."""
    verdicts: dict[str, list[bool]] = {}
    for prompt, pixels in zip(PROMPTS, _drawn(PROMPTS), strict=True):
        for kind, right in pixelcheck.check(pixels, prompt.facts).items():
            verdicts.setdefault(kind, []).extend(right)
    rates = {kind: _mean(right) for kind, right in sorted(verdicts.items())}
    wanted = (("background", 0.97), ("colour", 0.95), ("shape", 0.80), ("relation", 0.75))
    return rates, [goal(f"{kind} right", rates[kind], ">=", least) for kind, least in wanted]


def audio_to_text(say: Say) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sentences kept out of training: fresh ones where espeak-ng is installed, else the few that the tests have."""
    from compute.pipelines.audio_to_text import AudioToText
    from compute.soundfile import RATE

    listener = AudioToText.load(bundled(_FOLDERS["audio-to-text"]), device="cpu", dtype=Dtype.FP32)
    edits = words = sentences = 0
    seconds = 0.0
    for samples, text in _spoken(say):
        heard = listener.transcribe(samples, _quiet).text.split()
        edits += _edits(text.split(), heard)
        words += len(text.split())
        sentences += 1
        seconds += len(samples) / RATE
    rate = round(edits / words, 4)
    found = {"word error rate": rate, "sentences": sentences, "words": words, "seconds of sound": round(seconds)}
    return found, [goal("word error rate", rate, "<=", 0.10)]


def image_to_text(say: Say) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Flat pictures of combinations kept out of training, delivered as PNG; what is there is read off their pixels."""
    from compute.pipelines.image_to_text import ImageToText

    describer = ImageToText.load(bundled(_FOLDERS["image-to-text"]), device="cpu", dtype=Dtype.FP32)
    verdicts: dict[str, list[bool]] = {}
    for pixels in _pictures("quality, told"):
        text = describer.describe(read_picture(_png(pixels)), _quiet).text
        for kind, right in captioncheck.check(pixels, text).items():
            verdicts.setdefault(kind, []).extend(right)
    rates = {kind: _mean(right) for kind, right in sorted(verdicts.items())}
    wanted = (("background", 0.90), ("colour", 0.90), ("shape", 0.80))
    return rates, [goal(f"{kind} told right", rates[kind], ">=", least) for kind, least in wanted]


def segment_anything(say: Say) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A point on, and a box around, each thing of such pictures; its pixels are those of its colour."""
    from compute.pipelines.segment_anything import Box, Point, Prompt, SegmentAnything, box_of

    segmenter = SegmentAnything.load(bundled(_FOLDERS["segment-anything"]), device="cpu", dtype=Dtype.FP32)
    overlaps: dict[str, list[float]] = {"points": [], "boxes": []}
    off: list[float] = []
    rng = Random("quality, pointed at")
    for pixels in _pictures("quality, outlined"):
        picture = read_picture(_png(pixels))
        for mask in (thing.mask for thing in things_in(pixels)):
            x, y = rng.choice([(int(x), int(y)) for y, x in np.argwhere(mask)])
            edges = box_of(mask)
            assert edges is not None
            asked = {"points": Prompt((Point(x, y),)), "boxes": Prompt(box=Box(*map(float, edges)))}
            for kind, prompt in asked.items():
                (told,) = segmenter.segment(picture, [prompt], _quiet)
                overlaps[kind].append(_overlap(told.mask, mask))
                off.append(abs(told.score - overlaps[kind][-1]))
    rates = {f"mean overlap by {kind}": _mean(found) for kind, found in overlaps.items()}
    wanted = (("points", 0.80), ("boxes", 0.85))
    goals = [goal(f"mean overlap by {kind}", rates[f"mean overlap by {kind}"], ">=", least) for kind, least in wanted]
    return {**rates, "score off by": _mean(off), "things": len(overlaps["points"])}, goals


PARTS: Final[dict[str, Part]] = {
    "text-to-image": text_to_image,
    "image-to-image": quality_over.image_to_image,
    "audio-to-text": audio_to_text,
    "image-to-text": image_to_text,
    "segment-anything": segment_anything,
    "image-to-video": quality_moves.image_to_video,
    "upscale": quality_moves.upscale,
}
_FOLDERS: Final = {
    "text-to-image": "tiny",
    "image-to-image": "tiny",
    "audio-to-text": "tiny-listener",
    "image-to-text": "tiny-describer",
    "segment-anything": "tiny-segmenter",
    "image-to-video": quality_moves.MOVER,
    "upscale": quality_moves.UPSCALER,
}


def _drawn(prompts: Sequence[Prompt]) -> Iterator[NDArray[np.uint8]]:
    from compute.pipelines.text_to_image import TextToImage

    entry = read_folder(bundled(_FOLDERS["text-to-image"]))
    painter = TextToImage.load(Path(entry.folder), device="cpu", dtype=Dtype.FP32)
    shape = JobShape(TEXT_TO_IMAGE, entry.model, _SIDE, _SIDE, model.STEPS, True)
    guidance = int(model.GUIDANCE * 1000)
    for first in range(0, len(prompts), MAX_OPEN):
        some = prompts[first : first + MAX_OPEN]
        jobs = [painter.open(JobSpec(shape, one.text, "", guidance, one.seed, bytes(16))) for one in some]
        latents = [job.start() for job in jobs]
        for index in range(model.STEPS):
            latents = painter.step_together([(job, one, index) for job, one in zip(jobs, latents, strict=True)])
        yield from (job.pixels(one) for job, one in zip(jobs, latents, strict=True))


def _spoken(say: Say) -> Iterator[tuple[Any, str]]:
    from compute.soundfile import read_sound

    if shutil.which("espeak-ng") is None:
        say("espeak-ng is not installed: only the sentences that come with the tests")
        for name, text in json.loads((SPEECH / "texts.json").read_text()).items():
            yield read_sound((SPEECH / name).read_bytes()), text
        return
    from compute.training.utterances import utterance

    rng = Random("quality, said")
    for _ in range(_SENTENCES):
        made = utterance(rng, kept_away=True)
        yield made.wave, made.text


def _pictures(seed: str) -> Iterator[NDArray[np.uint8]]:
    from compute.training.telling import told_example
    from compute.training.world import render

    rng = Random(seed)
    for _ in range(_PICTURES):
        yield render(told_example(rng, kept_away=True).canvas, _SIDE, _SIDE)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _edits(wanted: list[str], got: list[str]) -> int:
    """Words put in, taken out or exchanged, at least."""
    table: Any = np.zeros((len(wanted) + 1, len(got) + 1), int)
    table[:, 0], table[0] = np.arange(len(wanted) + 1), np.arange(len(got) + 1)
    for i, one in enumerate(wanted, 1):
        for j, two in enumerate(got, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (one != two))
    return int(table[-1, -1])


def _overlap(one: Mask, two: Mask) -> float:
    return float((one & two).sum() / max(1, (one | two).sum()))


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)


def _quiet(done: int, total: int) -> None:
    pass
