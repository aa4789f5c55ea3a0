"""The second part of an errand: what is left of limit and deadline, for the picture that was bought."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from compute.spec import IMAGE_TO_IMAGE, TEXT_TO_IMAGE, UPSCALE, Option
from market.bid import Prefer
from market.bidding import summary
from market.bidwire import ArtifactHead, JobDone, ModelOnOffer, Spent
from market.client import Delivered, Wish, bid_for
from market.finishing import check_finish, finishing
from p2p.errors import Misconfigured, Refused
from tests.support.market_values import stranger

PICTURE = b"a picture"
MODEL = ModelOnOffer("any", bytes(32), 64, 4096, 1000, 1, 1, 1)


def bought(wish: Wish, price: int) -> Delivered:
    head = ArtifactHead(bytes(16), "image/png", len(PICTURE), sha256(PICTURE).digest())
    done = JobDone(
        bytes(32), stranger(1), (stranger(1),), 2 * price, price, 2 * price, Spent(0, 0, 0, 0), b"receipt", (head,)
    )
    receipt: Any = SimpleNamespace(price=price)
    return Delivered(bid_for(wish, MODEL, TEXT_TO_IMAGE, bytes), done, (PICTURE,), receipt)


@pytest.mark.parametrize(("limit", "left"), [(1000, 700), (301, 1), (0, 0)])
def test_the_second_part_gets_what_the_first_left(limit: int, left: int) -> None:
    wish = Wish("a red circle", width=128, height=64, limit=limit, deadline_ms=9000, prefer=Prefer.PRICE, wait=True)
    asked = finishing("2x", wish, bought(wish, 300), spent_ms=2500)
    bid = bid_for(asked.wish, MODEL, UPSCALE, bytes)
    assert (bid.limit, bid.deadline_ms, bid.prefer, bid.wait) == (left, 6500, Prefer.PRICE, True)
    assert (bid.spec.shape.width, bid.spec.shape.height, bid.spec.options) == (256, 128, (Option("factor", "2"),))
    assert bid.spec.inputs[0].digest == sha256(PICTURE).digest()
    assert asked.files == (PICTURE,)


def test_nothing_left_is_a_refusal_before_anybody_is_asked() -> None:
    wish = Wish("a red circle", limit=300, deadline_ms=9000)
    with pytest.raises(Refused, match="LIMIT_SPENT"):
        finishing("2x", wish, bought(wish, 300), spent_ms=0)
    with pytest.raises(Refused, match="DEADLINE"):
        finishing("2x", replace(wish, limit=0), bought(wish, 300), spent_ms=9000)


def test_only_pictures_are_finished_and_only_so() -> None:
    for pipeline in (TEXT_TO_IMAGE, IMAGE_TO_IMAGE):
        check_finish("2x", pipeline)
        check_finish("", pipeline)
    check_finish("", UPSCALE)
    for finish, pipeline in (("3x", TEXT_TO_IMAGE), ("2x", UPSCALE)):
        with pytest.raises(Misconfigured, match="finish"):
            check_finish(finish, pipeline)


def test_a_person_reads_what_each_part_cost_or_why_there_is_no_second() -> None:
    seconds = dict.fromkeys(("discover", "auction", "queue", "run", "transfer", "total"), 0.0)
    first = {
        "out": "a.png", "receipt": "a.receipt", "orchestrator": "X", "price_wei": 310, "limit_wei": 600,
        "cost_wei": 300, "paid_wei": 300, "seed": 1, "seconds": seconds, "safety": "unchecked",
    }  # fmt: skip
    second = {**first, "out": "a-2x.png", "price_wei": 40, "cost_wei": 40}
    both = summary({**first, "finish": second, "total_wei": 340})
    assert all(part in both for part in ("a.png", "a-2x.png", "300 wei", "40 wei", "340 wei"))
    short = summary({**first, "finish": {"refusal": {"code": "NO_MATCH", "hint": "nobody"}}})
    assert "NO_MATCH" in short
    assert "delivered" in short
