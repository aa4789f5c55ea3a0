"""Running a part of a job again, and how far what was committed lies from it.

A step is run from the committed latents before it, so that nothing of an earlier difference counts; noise comes from
the seed, or from whatever else the job starts with; the picture from the last latents. Imports torch; knows no model,
no Merkle path and no policy: distances only.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch

from compute.capability import Dtype
from compute.checkverdict import FAR
from compute.pipeline import Run
from compute.pipelines.text_to_image import decode_png
from compute.spec import JobSpec
from compute.work import Replay
from p2p.errors import Refused

NOWHERE: Final = Replay(FAR, FAR)  # what is no number, or no picture


def replay_step(run: Run, steps: int, index: int, dtype: Dtype, before: bytes, after: bytes) -> Replay:
    """Re-run one step from committed latents and measure the distance from the latents committed after it.

    Relative to how far they moved. Raises Refused for bytes that are no latents of this job.
    """
    if index >= steps:
        raise Refused("NO_STEP", "the job has fewer steps", have=steps, need=index + 1)
    source, claim = run.from_bytes(before, dtype), run.from_bytes(after, dtype)
    return distance(run.step(source, index), claim, claim - source)


def replay_start(run: Run, dtype: Dtype, noise: bytes) -> Replay:
    """Compare committed first latents with what the job starts from. Raises Refused like ``replay_step``."""
    claim = run.from_bytes(noise, dtype)
    return distance(run.start(), claim, claim)


def replay_picture(run: Run, spec: JobSpec, dtype: Dtype, latents: bytes, picture: bytes) -> Replay:
    """Compare a delivered picture with what the committed last latents decode to, in fractions of full white.

    Raises Refused also for a file that is no picture of this size.
    """
    claimed = decode_png(picture, spec.shape.width, spec.shape.height)
    ours = torch.from_numpy(run.pixels(run.from_bytes(latents, dtype)).astype(np.float32) / 255)
    claim = torch.from_numpy(claimed.astype(np.float32) / 255)
    return distance(ours, claim, torch.ones_like(claim))


def distance(ours: Any, claim: Any, scale: Any) -> Replay:
    """The largest difference, and the norm of all of them over the norm of ``scale``."""
    difference = (ours.float() - claim.float()).abs()
    if not bool(torch.isfinite(difference).all()):
        return NOWHERE
    size = float(scale.float().norm())
    relative = float(difference.norm()) / size if size else float(difference.norm() > 0)
    if not math.isfinite(relative):  # numbers so large that their squares are none
        return NOWHERE
    return Replay(min(FAR, int(float(difference.max()) * 1e9)), min(FAR, int(relative * 1e6)))
