"""Pictures kept out of training, drawn over with other words: what was asked for appears, and the rest stays. Part of
``quality``.

The prompt never says where the thing is, nor how large: what of that stays comes from the picture. So that this is
seen, the same prompts and seeds are drawn from words alone in the same run. Knows the model as a folder.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.pixelcheck import PALETTE, Seen, background_of, things_in
from benchmarks.report import Say, goal
from compute.capability import Dtype
from compute.modelfolder import bundled
from compute.spec import IMAGE_TO_IMAGE, TEXT_TO_IMAGE, Input, JobShape, JobSpec, Option

_PICTURES: Final = 32
_TOGETHER: Final = 8  # jobs that share their steps
_SIDE: Final = 64
_STEPS, _STRENGTH, _GUIDANCE = 20, 0.7, 3000
_NEAR: Final = 0.1  # of a side, that the middle of a thing may move and be where it was

Found: TypeAlias = tuple[dict[str, Any], list[dict[str, Any]]]
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Change:
    """A picture, the words it is drawn over with, and what shall be seen then."""

    picture: Pixels
    prompt: str
    background: str
    colour: str
    shape: str


def image_to_image(say: Say) -> Found:
    """Half of them get another colour of their thing, half another background."""
    from compute.pipelines.image_to_image import ImageToImage
    from compute.pipelines.text_to_image import TextToImage

    model = TextToImage.load(bundled("tiny"), device="cpu", dtype=Dtype.FP32)
    over = ImageToImage.on(model)
    rates: dict[str, Any] = {}
    for kind in ("colour", "background"):
        changes = list(_changes(kind))
        files = [_png(change.picture) for change in changes]
        pairs = list(zip(changes, files, strict=True))
        made = _drawn(model, [over.open(_over(one, file, n), (file,)) for n, (one, file) in enumerate(pairs)])
        plain = _drawn(model, [model.open(_plain(change, number)) for number, change in enumerate(changes)])
        rates[f"{kind} changed"] = _judged(changes, made)
        rates[f"{kind} changed, from words alone"] = _judged(changes, plain)
        say(f"{kind} changed: {rates[f'{kind} changed']}")
    goals = [
        goal("the new colour appears", rates["colour changed"]["colour"], ">=", 0.90),
        goal("then the background stays", rates["colour changed"]["background"], ">=", 0.90),
        goal("then its place stays", rates["colour changed"]["place"], ">=", 0.90),
        goal("the new background appears", rates["background changed"]["background"], ">=", 0.90),
        goal("then the colour stays", rates["background changed"]["colour"], ">=", 0.90),
        goal("then its place stays, on the new background", rates["background changed"]["place"], ">=", 0.90),
    ]
    return {"strength": _STRENGTH, "steps run": _run_steps(), "pictures of each": _PICTURES, **rates}, goals


def _changes(kind: str) -> Iterator[Change]:
    """Held-out pictures of one thing, and words for another held-out combination that differs in one way."""
    from compute.training import captions
    from compute.training.world import render

    rng, found = Random(f"quality, drawn over: {kind}"), 0
    while found < _PICTURES:
        made = captions.single(rng)
        if not captions.is_held_out(made):
            continue
        thing, background = made.things[0], made.background
        others = [name for name in PALETTE if name not in (thing.colour, background)]
        rng.shuffle(others)
        for other in others:
            colour, ground = (other, background) if kind == "colour" else (thing.colour, other)
            if captions.held_out(captions.Thing(colour, thing.shape), ground):
                words = f"{_article(colour)} {colour} {thing.shape} on {_article(ground)} {ground} background"
                yield Change(render(made.canvas, _SIDE, _SIDE), words, ground, colour, thing.shape)
                found += 1
                break


def _judged(changes: Sequence[Change], made: Sequence[Pixels]) -> dict[str, float]:
    """How often each of what shall be seen is seen, and the thing is where it was."""
    right: dict[str, list[bool]] = {"background": [], "colour": [], "shape": [], "place": []}
    for change, pixels in zip(changes, made, strict=True):
        (before, *_), seen = things_in(change.picture), things_in(pixels)
        thing = next((one for one in seen[:1] if one.colour == change.colour), None)
        right["background"].append(background_of(pixels) == change.background)
        right["colour"].append(thing is not None)
        right["shape"].append(thing is not None and thing.shape == change.shape)
        right["place"].append(thing is not None and _near(before, thing))
    return {kind: round(sum(found) / len(found), 4) for kind, found in right.items()}


def _near(one: Seen, other: Seen) -> bool:
    return abs(one.x - other.x) <= _NEAR and abs(one.y - other.y) <= _NEAR


def _drawn(model: Any, runs: Sequence[Any]) -> list[Pixels]:
    """All of them, some together in each step."""
    made = []
    for at in range(0, len(runs), _TOGETHER):
        some = runs[at : at + _TOGETHER]
        latents = [run.start() for run in some]
        for index in range(some[0].spec.shape.steps):
            turns = [(run, one, index) for run, one in zip(some, latents, strict=True)]
            latents = model.step_together(turns)
        made += [run.pixels(one) for run, one in zip(some, latents, strict=True)]
    return made


def _over(change: Change, file: bytes, seed: int) -> JobSpec:
    shape = JobShape(IMAGE_TO_IMAGE, bytes(32), _SIDE, _SIDE, _run_steps(), True, input_bytes=len(file))
    inputs = (Input("image/png", len(file), sha256(file).digest()),)
    options = (Option("strength", str(_STRENGTH)),)
    return JobSpec(shape, change.prompt, "", _GUIDANCE, seed, bytes(16), inputs, options)


def _plain(change: Change, seed: int) -> JobSpec:
    shape = JobShape(TEXT_TO_IMAGE, bytes(32), _SIDE, _SIDE, _STEPS, True)
    return JobSpec(shape, change.prompt, "", _GUIDANCE, seed, bytes(16))


def _run_steps() -> int:
    return round(_STEPS * _STRENGTH)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
