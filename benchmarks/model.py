"""The bundled text-to-image model against sixty held-out prompts, judged from pixels.

Shows each rate at 64x64, where the goals hold, and some at 256x256 for information. Knows the model only as a folder.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.pixelcheck import check
from benchmarks.prompts import PROMPTS, Prompt
from benchmarks.report import goal

MODEL: Final = Path(__file__).resolve().parent.parent / "compute" / "models" / "tiny"
STEPS, GUIDANCE = 12, 3.0
_GOALS: Final = (("background", 0.95), ("colour", 0.90))
_LARGE_SIDE: Final = 256
_LARGE_EVERY: Final = 5  # at the large side one prompt in this many is enough to be told


def run(folder: Path = MODEL, steps: int = STEPS, guidance: float = GUIDANCE, large: bool = True) -> dict[str, Any]:
    """Draw and judge all prompts; the result carries rates per kind of fact, and the goals."""
    pipeline = load(folder)
    small = _measure(pipeline, PROMPTS, 64, steps, guidance)
    results: dict[str, Any] = {"prompts": len(PROMPTS), "steps": steps, "guidance": guidance, "64x64": small}
    if large:
        some = PROMPTS[::_LARGE_EVERY]
        results[f"{_LARGE_SIDE}x{_LARGE_SIDE}"] = _measure(pipeline, some, _LARGE_SIDE, steps, guidance)
    goals = [goal(f"{kind} right at 64x64", small["rates"][kind], ">=", wanted) for kind, wanted in _GOALS]
    return {"results": results, "goals": goals}


def load(folder: Path) -> Any:
    """The pipeline of a local folder, offline and quiet."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, prompt: Prompt, side: int, steps: int, guidance: float) -> NDArray[np.uint8]:
    """The picture of one prompt, alone in its batch so that the machine's batch size cannot matter."""
    import torch

    generator = torch.Generator("cpu").manual_seed(prompt.seed)
    answer = pipeline(
        prompt.text,
        width=side,
        height=side,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generator,
        output_type="np",
    )
    return np.asarray((answer.images[0] * 255).round(), dtype=np.uint8)


def _measure(pipeline: Any, prompts: Sequence[Prompt], side: int, steps: int, guidance: float) -> dict[str, Any]:
    verdicts: dict[str, list[bool]] = {}
    spent = 0.0
    for prompt in prompts:
        start = time.perf_counter()
        pixels = draw(pipeline, prompt, side, steps, guidance)
        spent += time.perf_counter() - start
        judged = check(pixels, prompt.facts)
        for kind, values in judged.items():
            verdicts.setdefault(kind, []).extend(values)
        wrong = [kind for kind, values in judged.items() if not all(values)]
        print(f"{side:4d}  {'ok' if not wrong else 'wrong: ' + ', '.join(wrong):40}  {prompt.text}", file=sys.stderr)
    rates = {kind: round(sum(values) / len(values), 4) for kind, values in sorted(verdicts.items())}
    print(f"{side}x{side}: {rates}", file=sys.stderr)
    return {"rates": rates, "seconds_per_picture": round(spent / len(prompts), 3)}
