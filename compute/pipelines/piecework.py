"""Piecework: a job that is done piece by piece and in one go, in the shape in which the device knows jobs.

Where there are no steps between which others could join, the one step is the whole work, and its trace commits to what
came out. Between two pieces it is watched: there it is told how far it is, and there it ends when it was given up.
Knows no model.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from PIL import Image

from compute.capability import Dtype
from compute.pipeline import Turn
from compute.spec import Artifact, Input, JobShape, JobSpec, Option
from compute.trace import FINISHED
from p2p.errors import Refused

Progress = Callable[[int, int], None]
"""Told between two pieces: how many are done, of how many. What it raises (``Cancelled``) ends the work."""
Work = Callable[[Progress], tuple[Artifact, ...]]
TRIAL_SIDE = 128  # pixels, like the yardstick's
_BEGUN = 1  # the timestep of a job that is not done


def _unwatched(done: int, of: int) -> None:
    """Nobody looks between two pieces."""


def _unseen() -> None:
    """There is nothing to look at."""


@dataclass(frozen=True, slots=True)
class Piecework:
    """One job. Its state is None before the work, and the artifacts after it.

    ``latest`` gives a picture of the last piece, (height, width, 3) bytes, where there is one.
    """

    work: Work
    watch: Progress = _unwatched
    latest: Callable[[], Any] = _unseen

    def watched(self, watch: Progress) -> Piecework:
        """The same job, with somebody who is told between two pieces."""
        return replace(self, watch=watch)

    @property
    def group(self) -> Hashable:
        """Nobody else's: two such jobs share nothing."""
        return id(self)

    def start(self) -> None:
        """Nothing is done yet."""

    def step(self, done: Any, index: int) -> tuple[Artifact, ...]:
        """All of the work. Raises Refused, BrokenOutput, Cancelled."""
        return self.work(self.watch)

    def finish(self, done: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
        """The result."""
        return done

    def pixels(self, done: Any) -> Any:
        """There is no picture to compare. Raises Refused."""
        raise Refused("NOT_COMPARED", "results of this pipeline are not compared pixel by pixel")

    def timestep_of(self, index: int) -> int:
        """1 before the work, FINISHED after it."""
        return FINISHED if index else _BEGUN

    def to_bytes(self, done: tuple[Artifact, ...] | None) -> bytes:
        """The digests of what came out; a zero byte before."""
        return b"".join(sha256(one.data).digest() for one in done) if done else b"\0"

    def from_bytes(self, raw: bytes, dtype: Dtype) -> Any:
        """Digests cannot be worked on. Raises Refused."""
        raise Refused("NOT_REPLAYED", "steps of this pipeline are not run again")


def one_by_one(turns: Sequence[Turn[Any]]) -> list[Any]:
    """A step of each job alone, for pipelines whose jobs share none."""
    return [run.step(done, index) for run, done, index in turns]


def only(files: Sequence[bytes]) -> bytes:
    """The one input of a job. Raises Refused."""
    if len(files) != 1:
        raise Refused("BAD_INPUT", "this pipeline works on one file", have=len(files), need=1)
    return files[0]


def check_size(shape: JobShape, width: int, height: int) -> None:
    """Raises Refused unless a picture has the size that the job was priced for, upright or as it lies in its file."""
    if (shape.width, shape.height) not in ((width, height), (height, width)):
        raise Refused("BAD_INPUT", f"the picture is {width} x {height}, not {shape.width} x {shape.height}")


def check_options(spec: JobSpec, *known: str) -> None:
    """Raises Refused for an option that the pipeline does not have."""
    for option in spec.options:
        if option.name not in known:
            there = ", ".join(known) or "none"
            raise Refused("BAD_INPUT", f"no option {option.name[:32]!r} here; there are {there}")


def number(spec: JobSpec, name: str, default: float) -> float:
    """The value of an option that is a number. Raises Refused for one that is none, or not finite."""
    text = spec.option(name)
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Refused("BAD_INPUT", f"{name} is a number, not {text[:32]!r}")
    return value


def trial_spec(shape: JobShape, files: Sequence[bytes], media_type: str, **options: str) -> JobSpec:
    """A job of the device's own, on files that it made."""
    inputs = tuple(Input(media_type, len(data), sha256(data).digest()) for data in files)
    asked = tuple(Option(name, value) for name, value in sorted(options.items()))
    return JobSpec(shape, "", "", 0, 0, bytes(16), inputs, asked)


def trial_picture(shape: JobShape, larger: int = 1, **options: str) -> tuple[JobSpec, tuple[bytes, ...]]:
    """The same on a gray picture of TRIAL_SIDE, the result so many times larger."""
    out = io.BytesIO()
    Image.new("RGB", (TRIAL_SIDE, TRIAL_SIDE), (128, 128, 128)).save(out, format="PNG")
    files = (out.getvalue(),)
    asked = replace(shape, width=TRIAL_SIDE * larger, height=TRIAL_SIDE * larger, input_bytes=len(files[0]))
    return trial_spec(asked, files, "image/png", **options), files
