"""Pictures drawn over with other words: what was asked for appears, and the rest stays. A part of ``quality``.

A prompt says the whole picture with one thing exchanged. Flat pictures are of combinations kept out of training; what
a sentence does not say of them is medium, in the center and on white, so that it says everything. Where a boat is on
the sea no word says: what stays of that comes from the picture alone. The same prompts and seeds are drawn from words
alone in the same run, to tell the two apart. Knows the model as a folder.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
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

_PICTURES: Final = 24  # of each kind
_TOGETHER: Final = 8  # jobs that share their steps
_SIDE: Final = 64
_STEPS, _STRENGTH, _GUIDANCE = 20, 0.6, 3000
_NEAR: Final = 0.1  # of a side, that the middle of a thing may move and be where it was
_PLACES: Final = {
    "center": "in the center",
    **{edge: f"at the {edge}" for edge in ("top", "bottom")},
    **{side: f"on the {side}" for side in ("left", "right")},
    **{f"{edge} {side}": f"in the {edge} {side} corner" for edge in ("top", "bottom") for side in ("left", "right")},
}
_SKIES: Final = {"in the day": (155, 205, 252), "at sunset": (250, 158, 90), "at night": (20, 22, 60)}
_SAILS: Final = ("green", "purple", "black")  # colours that no sky has

Found: TypeAlias = tuple[dict[str, Any], list[dict[str, Any]]]
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Change:
    """A picture with a thing of colour ``was``, the words it is drawn over with, and what shall be seen then."""

    picture: Pixels
    was: str
    prompt: str
    around: str
    colour: str


def image_to_image(say: Say) -> Found:
    """Some get another colour of their thing, some another background, some another time of day."""
    from compute.pipelines.image_to_image import ImageToImage
    from compute.pipelines.text_to_image import TextToImage

    model = TextToImage.load(bundled("tiny"), device="cpu", dtype=Dtype.FP32)
    over = ImageToImage.on(model)
    rates: dict[str, Any] = {"strength": _STRENGTH, "steps run": _run_steps(), "pictures of each": _PICTURES}
    kinds = (("colour", _flat("colour")), ("background", _flat("background")), ("sky", _boats()))
    for kind, drawn in kinds:
        changes = list(drawn)
        files = [(_png(change.picture),) for change in changes]
        runs = [over.open(_over(changes[n], *file, n), file) for n, file in enumerate(files)]
        plain = [model.open(_plain(change, n)) for n, change in enumerate(changes)]
        around = _sky_of if kind == "sky" else background_of
        rates[f"{kind} changed"] = _judged(changes, _drawn(model, runs), around)
        rates[f"{kind} changed, from words alone"] = _judged(changes, _drawn(model, plain), around)
        say(f"{kind} changed: {rates[f'{kind} changed']}")
    sky, words = rates["sky changed"], rates["sky changed, from words alone"]
    return rates, [
        goal("new colour, background and place as before", rates["colour changed"]["all of it"], ">=", 0.90),
        goal("new background, colour and place as before", rates["background changed"]["all of it"], ">=", 0.90),
        goal("new sky, the boat as before", sky["all of it"], ">=", 0.80),
        goal("the boat in its place, over that from words alone", _over_that(sky, words), ">=", 1.5),
    ]


def _flat(kind: str) -> Iterator[Change]:
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
                said = f"a {thing.size} {colour} {thing.shape} {_PLACES[thing.position]}"
                words = f"{said} on {'an' if ground[0] in 'aeiou' else 'a'} {ground} background"
                yield Change(render(made.canvas, _SIDE, _SIDE), thing.colour, words, ground, colour)
                found += 1
                break


def _boats() -> Iterator[Change]:
    """A boat alone on the sea, somewhere, and words for it at another time of day."""
    from compute.training import scenes
    from compute.training.world import render

    rng, found = Random("quality, drawn over: sky"), 0
    while found < _PICTURES:
        made = scenes.landscape(rng)
        words = made.parts[0][0] if len(made.parts) == 1 and made.ground == "sea" else ""
        colour = next((name for name in _SAILS if f"{name} sail" in words), "")
        if colour and made.sky != "night":  # there the sail is dimmed
            sky = "at sunset" if made.sky == "day" else "in the day"
            yield Change(render(made.canvas, _SIDE, _SIDE), colour, f"{words} on the sea {sky}", sky, colour)
            found += 1


def _judged(changes: Sequence[Change], made: Sequence[Pixels], around: Callable[[Pixels], str]) -> dict[str, float]:
    """How often what shall be seen is seen, and the thing is where it was."""
    right: dict[str, list[bool]] = {"around": [], "colour": [], "place": [], "all of it": []}
    for change, pixels in zip(changes, made, strict=True):
        before, thing = _thing(change.picture, change.was), _thing(pixels, change.colour)
        near = before is not None and thing is not None and _near(before, thing)
        verdicts = around(pixels) == change.around, thing is not None, near
        for kind, verdict in zip(right, (*verdicts, all(verdicts)), strict=True):
            right[kind].append(verdict)
    return {kind: round(sum(found) / len(found), 4) for kind, found in right.items()}


def _sky_of(pixels: Pixels) -> str:
    """The time of day whose sky is nearest to the upper part."""
    mean = pixels[: _SIDE * 2 // 5].reshape(-1, 3).mean(0)
    return min(_SKIES, key=lambda name: float(((mean - np.array(_SKIES[name])) ** 2).sum()))


def _thing(pixels: Pixels, colour: str) -> Seen | None:
    return next((one for one in things_in(pixels) if one.colour == colour), None)


def _near(one: Seen, other: Seen) -> bool:
    return abs(one.x - other.x) <= _NEAR and abs(one.y - other.y) <= _NEAR


def _over_that(one: dict[str, float], other: dict[str, float]) -> float:
    return round(one["place"] / max(1 / _PICTURES, other["place"]), 3)


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


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
