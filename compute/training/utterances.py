"""Spoken sentences for the bundled listener: words of the rendered world, numbers and commands, said by espeak-ng.

A sentence is text from a closed vocabulary; how it is said (voice, pace, pitch, loudness, noise, silence around it)
comes from the same chance. Sentences that are held out by a hash are never said in training. Knows no model.
"""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from compute.training.world import COLOURS, SHAPES, SIZES
from p2p.errors import Misconfigured

Wave: TypeAlias = NDArray[np.float32]

RATE: Final = 16_000
HELD_OUT_SHARE: Final = 8
_NUMBERS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty fifty hundred"
).split()
_PLACES: Final = "left right top bottom center middle corner side above below over under behind beside".split()
_THINGS: Final = (
    "sun moon mountain house tree boat sea grass desert snow sky roof sail star stars night day sunset background"
).split()
_COMMANDS: Final = (
    "draw paint make show play stop start open close turn move zoom slow fast please add remove again next back"
).split()
_NETWORK: Final = "image picture video sound text network node model peer job price offer ticket coin market".split()
_GLUE: Final = "a an and the of with on in at to from is are it no yes hello world".split()
VOCABULARY: Final = tuple(
    sorted({*COLOURS, *SHAPES, *SIZES, *_NUMBERS, *_PLACES, *_THINGS, *_COMMANDS, *_NETWORK, *_GLUE})
)
_VOICES: Final = ("en", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan")
_VARIANTS: Final = ("", "+m1", "+m3", "+m7", "+f2", "+f4", "+f5")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sentence and how it was said: samples in [-1, 1] at RATE."""

    text: str
    wave: Wave


def sentence(rng: Random) -> str:
    """Words in an order that somebody might say, or in none, so that no word hangs on its neighbours."""
    draw = rng.random()
    if draw < 0.35:
        return " ".join(rng.choice(VOCABULARY) for _ in range(rng.randint(2, 7)))
    if draw < 0.60:
        return f"{_opening(rng)}{_thing(rng)} {_relation(rng)}"
    if draw < 0.75:
        return (
            f"{_opening(rng)}{rng.choice(('a', 'the'))} {rng.choice(_THINGS)} {rng.choice(_PLACES)} the {_where(rng)}"
        )
    if draw < 0.88:
        return " ".join(rng.choice(_NUMBERS) for _ in range(rng.randint(2, 6)))
    return f"{rng.choice(_COMMANDS)} the {rng.choice(_NETWORK)} {rng.choice(_COMMANDS)} {rng.choice(_NUMBERS)}"


def held_out(text: str) -> bool:
    """Whether this sentence is kept away from training. Short ones too: they are as many as they are."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0


def utterance(rng: Random, *, kept_away: bool = False) -> Utterance:
    """One sentence from training, or one kept away from it, said once. Raises Misconfigured without espeak-ng."""
    text = sentence(rng)
    while held_out(text) != kept_away:
        text = sentence(rng)
    voice = rng.choice(_VOICES) + rng.choice(_VARIANTS)
    said = say(text, voice, pace=rng.randint(110, 185), pitch=rng.randint(25, 75))
    return Utterance(text, _roughened(said, rng))


def say(text: str, voice: str, *, pace: int, pitch: int) -> Wave:
    """What espeak-ng makes of the text, at RATE."""
    command = ["espeak-ng", "-v", voice, "-s", str(pace), "-p", str(pitch), "--stdout", text]
    try:
        made = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        raise Misconfigured(f"espeak-ng cannot be run ({exc}): install it to make utterances") from exc
    own_rate = int.from_bytes(made[24:28], "little")
    samples = np.frombuffer(made[44:], "<i2").astype(np.float32) / 32768
    count = int(len(samples) * RATE / own_rate)
    return np.interp(np.arange(count) * own_rate / RATE, np.arange(len(samples)), samples).astype(np.float32)


def load_or_make(store: Path, count: int, seed: str, *, kept_away: bool = False) -> list[Utterance]:
    """So many utterances, from the file when it was made before."""
    if not store.exists():
        rng = Random(seed)
        made = [utterance(rng, kept_away=kept_away) for _ in range(count)]
        lengths = np.array([len(one.wave) for one in made])
        waves = np.concatenate([(one.wave * 32767).astype(np.int16) for one in made])
        np.savez(store, waves=waves, lengths=lengths, texts=np.array([one.text for one in made]))
    with np.load(store) as kept:
        waves = kept["waves"].astype(np.float32) / 32768
        cuts = np.cumsum(kept["lengths"])[:-1]
        return [Utterance(str(t), w) for t, w in zip(kept["texts"], np.split(waves, cuts), strict=True)]


def _roughened(wave: Wave, rng: Random) -> Wave:
    """The saying with silence around it, another loudness, and some hiss, as a microphone has."""
    before, after = rng.randint(0, RATE // 2), rng.randint(0, RATE // 2)
    padded = np.pad(wave, (before, after)) * rng.uniform(0.15, 1.0)
    hiss = 10 ** rng.uniform(-4.5, -2.0) if rng.random() < 0.7 else 0.0
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(padded)) * hiss
    return np.clip(padded + noise, -1.0, 1.0).astype(np.float32)


def _opening(rng: Random) -> str:
    return rng.choice(("", "", "draw ", "paint ", "show ", "make ", "please draw ", "add ", "a picture of "))


def _thing(rng: Random) -> str:
    size = rng.choice(("", *SIZES))
    return " ".join(filter(None, (rng.choice(("a", "the")), size, rng.choice(list(COLOURS)), rng.choice(SHAPES))))


def _relation(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.4:
        return f"on {rng.choice(('a', 'the'))} {rng.choice(list(COLOURS))} background"
    if draw < 0.7:
        return f"{rng.choice(('above', 'below', 'to the left of', 'to the right of', 'and', 'over'))} {_thing(rng)}"
    return f"{rng.choice(('in', 'at', 'on'))} the {_where(rng)}"


def _where(rng: Random) -> str:
    return rng.choice(("left", "right", "top", "bottom", "center", "middle", "top left corner", "sea", "grass", "snow"))
