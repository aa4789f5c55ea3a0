"""Pictures bought from real processes and real models: made larger by a second bid, drawn over, seen in the making."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from compute.imagefile import read_picture
from compute.modelfolder import bundled
from tests.support.processes import LocalMarket, local_market, outcome

pytest.importorskip("torch")
pytestmark = [pytest.mark.live, pytest.mark.prove]
MODELS = ("tiny", "tiny-upscaler")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    if not all(bundled(name).is_dir() for name in MODELS):
        pytest.skip("the bundled models are not in this checkout")
    with local_market(tmp_path_factory.mktemp("pictures"), request) as market:
        named = [word for name in MODELS for word in ("--model", name)]
        nodes = [market.role("gateway"), market.role("orchestrator", *named)]
        for node in nodes:
            node.ready()
        nodes[0].said("pipeline=upscale")
        yield market
        for node in nodes:
            assert "Traceback" not in node.errors(), node.tail()


def check(market: LocalMarket, report: dict[str, Any], side: int) -> dict[str, Any]:
    """The file is what was asked for, and its Receipt is about it; what the Receipt says."""
    assert read_picture((market.cwd / report["out"]).read_bytes()).size == (side, side)
    verified = market.run("verify", report["receipt"], report["out"], "--json")
    said = json.loads(verified.stdout[-1])
    assert said["verified"], said
    receipt: dict[str, Any] = said["receipt"]
    assert int(receipt["price_wei"]) == report["cost_wei"] <= report["price_wei"] <= report["limit_wei"]
    return receipt


def test_a_picture_is_finished_by_a_second_bid_under_one_limit(market: LocalMarket) -> None:
    one = market.bid("a red circle", "--steps", "10", "--finish", "2x", "--out", "one.png", "--deadline", "150")
    assert one.code == 0, one.process.tail()
    finish = one.report["finish"]
    assert (one.report["out"], finish["out"]) == ("one.png", "one-2x.png")
    assert one.report["total_wei"] == one.report["cost_wei"] + finish["cost_wei"]
    assert check(market, one.report, 64)["pipeline"] == "text-to-image"
    assert check(market, finish, 128)["pipeline"] == "upscale"
    price = one.report["price_wei"]
    for _ in range(3):  # a picture that is late costs less, and leaves something
        asked = ("--steps", "10", "--finish", "2x", "--out", "two.png", "--limit", str(price))
        short = market.bid("a blue star", *asked)
        if short.report["cost_wei"] == price:
            break
    assert short.code == 4, short.process.tail()
    assert short.report["finish"]["refusal"]["code"] == "LIMIT_SPENT"
    check(market, short.report, 64)


def test_a_picture_is_drawn_over_for_the_steps_that_are_run(market: LocalMarket) -> None:
    first = market.bid("a red circle on a white background", "--out", "circle.png", "--seed", "1")
    asked = ("--prompt", "a blue circle on a white background", "--file", "circle.png", "--set", "strength=0.6")
    second = outcome(market.start("bid", "image-to-image", *asked, "--out", "over.png", "--json"))
    assert second.code == 0, second.process.tail()
    receipt = check(market, second.report, 64)
    assert (receipt["pipeline"], receipt["steps"]) == ("image-to-image", 12)
    assert receipt["trace_root"]
    assert second.report["price_wei"] * 20 == first.report["price_wei"] * 12
    pixels = [read_picture((market.cwd / name).read_bytes()).getpixel((32, 32)) for name in ("circle.png", "over.png")]
    red, blue = pixels
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_a_picture_is_seen_in_the_making(market: LocalMarket, tmp_path: Path) -> None:
    folder = tmp_path / "seen"
    seen = market.bid("a green square", "--steps", "60", "--previews", str(folder))
    assert seen.code == 0, seen.process.tail()
    files = sorted(folder.iterdir())
    assert len(files) == seen.report["previews"] >= 1
    for file in files:
        assert file.name.startswith(seen.report["job_id"][:12])
        assert max(read_picture(file.read_bytes()).size) <= 64
    assert "previews" not in market.bid("a green square").report
