"""What a machine says it can run: every misfit has a reason, every prediction errs on the slow side."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Capability, Dtype, Misfit, ModelCapability, Unfit
from compute.spec import TEXT_TO_IMAGE, JobShape
from p2p.codec import decode, encode
from p2p.errors import MalformedMessage

MODEL = b"m" * 32
ENTRY = ModelCapability(MODEL, "tiny", TEXT_TO_IMAGE, 64, 256, 8, 1000, Dtype.FP32)
HERE = Capability((ENTRY,))


def shape(width: int = 64, height: int = 64, steps: int = 10, guided: bool = True, model: bytes = MODEL) -> JobShape:
    return JobShape(TEXT_TO_IMAGE, model, width, height, steps, guided)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (shape(), None),
        (shape(256, 64, 1000), None),
        (shape(264, 64), Unfit(Misfit.SIDE, 256, 264)),
        (shape(64, 512), Unfit(Misfit.SIDE, 256, 512)),
        (shape(steps=1001), Unfit(Misfit.STEPS, 1000, 1001)),
        (shape(model=b"x" * 32), Unfit(Misfit.MODEL)),
        (replace(shape(), pipeline="upscale"), Unfit(Misfit.PIPELINE)),
    ],
)
def test_every_misfit_has_its_reason(asked: JobShape, expected: Unfit | None) -> None:
    assert HERE.unfit(asked) == expected
    assert HERE.fits(asked) == (expected is None)


def test_a_model_that_needs_coarser_sides_refuses_the_finer() -> None:
    coarse = Capability((replace(ENTRY, side_step=16),))
    assert coarse.unfit(shape(64, 72)) == Unfit(Misfit.SIDE_STEP, 16, 72)
    assert coarse.fits(shape(64, 80))


@given(units=st.integers(1, 2**40), run_ms=st.integers(1, 10**7))
def test_a_first_measurement_predicts_no_less_than_it_was(units: int, run_ms: int) -> None:
    measured = ENTRY.measured(units, run_ms)
    assert measured.warm
    assert -(-units * 1000 // measured.units_per_second) >= min(run_ms, units * 1000)


@given(st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_speed_stays_between_the_samples(samples: list[tuple[int, int]]) -> None:
    entry = ENTRY
    for units, run_ms in samples:
        entry = entry.measured(units, run_ms)
    speeds = [max(1, units * 1000 // max(1, run_ms)) for units, run_ms in samples]
    assert min(speeds) - len(speeds) <= entry.units_per_second <= max(speeds)


def test_a_cold_model_adds_its_loading() -> None:
    known = replace(ENTRY, units_per_second=81_920, load_ms=700)
    assert known.predict_ms(shape()) == 1700
    assert replace(known, warm=True).predict_ms(shape()) == 1000
    assert Capability((known,)).predict_ms(shape()) == 1700


def test_more_work_never_takes_less_time() -> None:
    assert ENTRY.predict_ms(shape(steps=11)) > ENTRY.predict_ms(shape(steps=10))
    assert ENTRY.predict_ms(shape()) > ENTRY.predict_ms(shape(guided=False))


def test_a_change_replaces_its_own_model_only() -> None:
    other = replace(ENTRY, model=b"n" * 32)
    both = Capability((ENTRY, other))
    warm = replace(other, warm=True)
    assert both.updated(warm).models == (ENTRY, warm)
    assert HERE.updated(warm) == HERE


def test_the_wire_form_is_fixed_and_a_model_appears_once() -> None:
    wire = encode(HERE)
    assert decode(wire) == HERE
    assert wire.hex() == (
        "94aa6361706162696c69747902919ec420" + "6d" * 32 + "a474696e79ad746578742d746f2d696d61676540cd010008cd03e8"
        "a46670333200" + "00c200000001"
    )
    with pytest.raises(ValueError, match="twice"):
        Capability((ENTRY, ENTRY))
    twice = wire.replace(b"\x91\x9e", b"\x92\x9e").replace(wire[16:-1], wire[16:-1] * 2)
    with pytest.raises(MalformedMessage):
        decode(twice)
