"""Prices of pipelines: one price and measured costs give all of them; what an operator sets apart is what is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Capability, Dtype, ModelCapability
from compute.costbook import MAX_COST, CostBook
from compute.modelfolder import bundled, bundled_names, read_folder
from compute.spec import IMAGE_TO_TEXT, TEXT_TO_IMAGE, UPSCALE
from ledger.money import GWEI, MAX_WEI, scaled
from market.config import load_config
from market.prices import PriceList, dearest
from market.pricing import Pricing
from p2p.errors import Misconfigured

ROOT = Path(__file__).parent.parent
PRICES = st.integers(0, 10**30)
COSTS = st.integers(1, MAX_COST)


@given(PRICES, COSTS, COSTS)
def test_a_price_follows_the_relative_cost_and_is_rounded_up_once(price: int, own: int, reference: int) -> None:
    asked = PriceList(price).of(UPSCALE, {TEXT_TO_IMAGE: reference, UPSCALE: own})
    exact = Fraction(price) * own / reference
    assert exact <= asked < exact + 1 or asked == MAX_WEI < exact
    assert type(asked) is int
    assert asked == min(MAX_WEI, scaled(price, own, reference))


@given(PRICES, COSTS, COSTS, COSTS)
def test_what_costs_more_is_never_sold_for_less(price: int, one: int, other: int, reference: int) -> None:
    low, high = sorted((one, other))
    prices = [PriceList(price).of(UPSCALE, {TEXT_TO_IMAGE: reference, UPSCALE: cost}) for cost in (low, high)]
    assert prices == sorted(prices)
    assert not price or prices[0] > 0  # a priced pipeline is never for nothing, however cheap a unit is


@given(PRICES, COSTS, st.integers(1, 10**6))
def test_only_the_ratio_counts(price: int, cost: int, times: int) -> None:
    same = PriceList(price).of(UPSCALE, {TEXT_TO_IMAGE: cost, UPSCALE: cost})
    assert same == price
    pair = {TEXT_TO_IMAGE: cost, UPSCALE: 3 * cost}
    slower = {name: one * times for name, one in pair.items()}
    assert PriceList(price).of(UPSCALE, pair) == PriceList(price).of(UPSCALE, slower)


@given(PRICES, PRICES, st.dictionaries(st.sampled_from([TEXT_TO_IMAGE, UPSCALE, IMAGE_TO_TEXT]), COSTS))
def test_set_apart_is_set_and_text_to_image_is_the_price(price: int, apart: int, costs: dict[str, int]) -> None:
    asked = PriceList(price, {UPSCALE: apart})
    assert asked.of(UPSCALE, costs) == apart
    assert asked.of(TEXT_TO_IMAGE, costs) == price
    if not {TEXT_TO_IMAGE, IMAGE_TO_TEXT} <= set(costs):
        assert asked.of(IMAGE_TO_TEXT, costs) == price


@given(st.lists(st.tuples(st.sampled_from([TEXT_TO_IMAGE, UPSCALE]), st.integers(0, 99))))
def test_the_dearest_model_counts_for_its_pipeline(costs: list[tuple[str, int]]) -> None:
    found = dearest(costs)
    for pipeline in (TEXT_TO_IMAGE, UPSCALE):
        known = [cost for name, cost in costs if name == pipeline and cost]
        assert found.get(pipeline) == (max(known) if known else None)


# -- what was measured is written down -------------------------------------------------------------------------------


def entry(pipeline: str, number: int, unit_ps: int) -> ModelCapability:
    return ModelCapability(bytes([number]) * 32, f"m{number}", pipeline, 64, 256, 8, 100, Dtype.FP32, unit_ps=unit_ps)


async def test_prices_come_with_the_first_measurement_and_stay(tmp_path: Path) -> None:
    path, device = tmp_path / "home" / "costs.json", ["auto"]
    pricing = Pricing(PriceList(1000, {IMAGE_TO_TEXT: 7}), CostBook(path), lambda: device[0])
    machine = Capability((entry(TEXT_TO_IMAGE, 1, 0), entry(UPSCALE, 2, 0), entry(IMAGE_TO_TEXT, 3, 0)))
    await pricing.learn(machine)
    assert not path.exists()
    assert [pricing.ask(one.pipeline, machine) for one in machine.models] == [1000, 1000, 7]
    device[0] = "cpu"
    machine = machine.updated(replace(machine.models[0], unit_ps=2000)).updated(replace(machine.models[1], unit_ps=501))
    await pricing.learn(machine)
    assert [pricing.ask(one.pipeline, machine) for one in machine.models] == [1000, 251, 7]
    slower = machine.updated(replace(machine.models[1], unit_ps=99_999))
    await pricing.learn(slower)
    assert pricing.ask(UPSCALE, slower) == 251
    # The next start knows it before its worker has said a word, and a machine without text-to-image compares with it.
    again = Pricing(PriceList(1000), CostBook(path), lambda: "auto")
    assert again.ask(UPSCALE, Capability((entry(UPSCALE, 2, 0),))) == 251
    other = Pricing(PriceList(1000), CostBook(path), lambda: "another device")
    await other.learn(slower)
    assert other.ask(UPSCALE, slower) == scaled(1000, 99_999, 2000)


def test_a_cost_book_believes_nothing_that_is_no_cost(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    good = {"cpu": {UPSCALE: {"00": 5, "01": -1, "02": "7", "03": True, "04": MAX_COST + 1}, "x": []}, "gpu": 3}
    for text in ("", "[]", "[" * 100_000, "\xff", json.dumps(good)):
        path.write_text(text)
        book = CostBook(path)
        assert book.reference("cpu") == 0
        assert book.of("cpu", UPSCALE, b"\1") == 0
        assert book.of("cpu", UPSCALE, b"\0") == (5 if text.startswith('{"cpu"') else 0)
    other = CostBook(path)
    other.put("cpu", TEXT_TO_IMAGE, b"\7", 11)
    book.put("cpu", UPSCALE, b"\0", 6)  # over what another wrote meanwhile
    kept = CostBook(path)
    assert (kept.reference("cpu"), kept.of("cpu", UPSCALE, b"\0")) == (11, 6)
    unwritable = CostBook(tmp_path / "costs.json" / "no" / "folder")
    unwritable.put("cpu", UPSCALE, b"\0", 9)
    assert unwritable.of("cpu", UPSCALE, b"\0") == 9


# -- the operator's table --------------------------------------------------------------------------------------------


def test_a_table_of_prices_is_read_in_the_words_of_the_flag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pasar").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "pasar" / "pasar.toml").write_text('price = "2gwei"\n[prices]\nupscale = "5gwei"\naudio-to-text = 30\n')
    assert load_config().prices == {"upscale": 5 * 10**9, "audio-to-text": 30}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"text-to-image": 1}, "--price"),
        ({"upscaling": 1}, "no pipeline 'upscaling'"),
        ({"upscale": "lots"}, "no amount"),
        ({"upscale": -1}, "prices.upscale"),
        ({"upscale": 2**128}, "prices.upscale"),
        ({"upscale": [1]}, "prices.upscale"),
        ("upscale=1", "a table"),
    ],
)
def test_what_is_no_table_of_prices_is_refused_in_one_line(told: object, reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason):
        load_config(prices=told)


# -- measured --------------------------------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.prove
def test_the_command_measures_every_pipeline_beside_text_to_image(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    places = {"PASAR_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path)}

    def bench(*argv: str) -> Any:
        done = subprocess.run(
            [sys.executable, str(ROOT / "node.py"), "models", "bench", "--jobs", "1", "--steps", "2", "--json", *argv],
            env={**os.environ, **places},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (tmp_path / "pasar").mkdir()
    (tmp_path / "pasar" / "pasar.toml").write_text("[prices]\naudio-to-text = 77\n")
    one = bench("tiny-upscaler")
    costs = json.loads((tmp_path / "home" / "costs.json").read_text())["cpu"]
    assert set(costs) >= {UPSCALE, TEXT_TO_IMAGE}  # the bundled one was measured too, to compare with
    (own,), (reference,) = costs[UPSCALE].values(), costs[TEXT_TO_IMAGE].values()
    assert one["seconds_per_unit"] == own / 10**12
    assert one["relative_cost"] == pytest.approx(own / reference, rel=1e-4)
    assert one["price_wei"] == scaled(100 * GWEI, own, reference)
    rows = {row["pipeline"]: row for row in bench()}
    names = [read_folder(bundled(name)).pipeline for name in bundled_names()]
    assert set(rows) >= set(names)
    assert all(row["seconds_per_unit"] > 0 for row in rows.values())
    assert rows["audio-to-text"]["price_wei"] == 77
    assert (rows[TEXT_TO_IMAGE]["relative_cost"], rows[TEXT_TO_IMAGE]["price_wei"]) == (1.0, 100 * GWEI)
