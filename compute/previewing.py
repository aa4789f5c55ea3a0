"""Previewing: small pictures of what jobs are about to become, for those who asked: a few a second, and never dear.

A job asks with the option ``previews``: after every so many of its steps. However many jobs ask, previews take at most
a twentieth of the device's time, and one that cannot be made costs its job nothing. Runs in the device's thread. Shell:
reads the clock, writes WebP.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from compute.messages import MAX_PREVIEW
from compute.openjob import OpenJob
from compute.pipeline import Glimpsed
from compute.pipelines.piecework import Piecework
from compute.spec import MAX_STEPS, JobSpec
from p2p.errors import Refused

OPTION = "previews"
EVERY_S = 0.5  # from one preview of a job to the next
SHARE = 20  # of the device's time
SIDE = 64  # pixels of the longer side
_QUALITY = 70


def wanted(spec: JobSpec) -> int:
    """After how many steps each time a job wants to be seen; 0: it does not. Raises Refused."""
    text = spec.option(OPTION)
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_STEPS):
        raise Refused("BAD_INPUT", f"{OPTION} is a number of steps, 1 to {MAX_STEPS}, not {text[:16]!r}")
    return int(text or 0)


class Previews:
    """Of one device. Invariant: SHARE times what one took passes before the next is made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free_at = 0.0
        self._last: dict[bytes, float] = {}

    def of(self, job: OpenJob) -> bytes:
        """A file of a job that has just made a step; empty when it is not the time for one."""
        run = job.run
        if job.finished or not isinstance(run, Glimpsed):
            return b""
        return self._made(job, job.index, lambda: run.glimpse(job.before, job.latents, job.index - 1))

    def between(self, job: OpenJob, piece: int) -> bytes:
        """The same between two pieces of a step, of which so many are done."""
        return self._made(job, piece, job.run.latest) if isinstance(job.run, Piecework) else b""

    def _made(self, job: OpenJob, done: int, look: Callable[[], Any]) -> bytes:
        every, now = wanted(job.spec) if job.may_be_seen else 0, self._clock()
        if not every or done % every:
            return b""
        if now < self._free_at or now < self._last.get(job.job_id, -EVERY_S) + EVERY_S:
            return b""
        self._last = {job_id: at for job_id, at in self._last.items() if now < at + EVERY_S}
        self._last[job.job_id] = now
        try:
            pixels = look()
            file = b"" if pixels is None else small(pixels)
        except Exception:  # model code is foreign, and nobody pays for a preview
            file = b""
        self._free_at = now + (1 + SHARE) * (self._clock() - now)
        return file if len(file) <= MAX_PREVIEW else b""


def small(pixels: Any) -> bytes:
    """Pixels (height, width, 3) as a file of a few KiB."""
    picture, out = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(out, format="WEBP", quality=_QUALITY, method=0)
    return out.getvalue()
