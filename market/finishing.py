"""Finishing: the second part of an errand: the picture that was bought is made twice as large.

It is a bid of its own, with a Receipt of its own, under the limit and the deadline of the whole errand: it gets what
the first part left of both. Knows no gateway.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from compute.spec import DENOISED, UPSCALE, Input, Option
from market.asking import Asked
from market.client import Delivered, Wish
from p2p.errors import Misconfigured, Refused

FINISHES = {"2x": 2}
PIPELINE = UPSCALE


def check_finish(finish: str, pipeline: str) -> None:
    """Raise Misconfigured for a finish that is none, or that has no picture to work on."""
    if finish and finish not in FINISHES:
        raise Misconfigured(f"finish: {finish[:16]!r} is none; there is {', '.join(FINISHES)}")
    if finish and pipeline not in DENOISED:
        raise Misconfigured(f"finish: {', '.join(sorted(DENOISED))} can be finished, {pipeline} cannot")


def finishing(finish: str, wish: Wish, first: Delivered, spent_ms: int) -> Asked:
    """What is bid for the second part. Raises Refused when the first has left nothing of limit or deadline."""
    limit, deadline_ms = wish.limit - first.receipt.price if wish.limit else 0, wish.deadline_ms - spent_ms
    if wish.limit and limit <= 0:
        raise Refused("LIMIT_SPENT", "the picture took the whole limit", have=0, need=1)
    if deadline_ms <= 0:
        raise Refused("DEADLINE", "the picture took the whole time", have=0, need=1)
    head, data, shape = first.done.artifacts[0], first.files[0], first.bid.spec.shape
    factor = FINISHES[finish]
    larger = replace(
        Wish(""),
        width=shape.width * factor,
        height=shape.height * factor,
        steps=1,
        guidance=0,
        seed=0,
        limit=limit,
        deadline_ms=deadline_ms,
        price_of_time=wish.price_of_time,
        prefer=wish.prefer,
        wait=wish.wait,
        inputs=(Input(head.media_type, len(data), sha256(data).digest()),),
        options=(Option("factor", str(factor)),),
    )
    return Asked(larger, (data,))
