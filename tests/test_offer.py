"""Offers: bounds, size, what keeps one from a job; golden bytes of both messages."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.spec import Quality, Verification
from ledger.money import MAX_WEI
from market.offer import MAX_MODELS, MAX_OFFER, Load, Offer
from market.refusal import Rule
from p2p.codec import decode, encode
from p2p.envelope import sign
from p2p.errors import MalformedMessage, UnknownMessage
from p2p.peer import Address
from tests.support.market_values import MODEL, NOW, Key, model_offer, offer, shape, stranger


def test_the_longest_offer_fits_a_gossip_message_and_the_usual_one_a_quarter() -> None:
    longest = model_offer(
        name="x" * 48, dtype="y" * 16, speed=2**48, load_ms=2**32 - 1, max_side=1024, native_side=1024, max_steps=4096
    )
    models = tuple(replace(longest, model=bytes([n]) * 32) for n in range(MAX_MODELS))
    key = Key(1)
    made = offer(
        key.peer,
        network="n" * 32,
        pipeline="p" * 64,
        models=models,
        price=MAX_WEI,
        serial=2**64 - 1,
        slots=1024,
        verification=tuple(Verification),
        refresh_s=86_400,
        issued_at=2**63,
    )
    assert len(encode(sign(made, key))) <= MAX_OFFER
    usual = offer(key.peer, models=tuple(model_offer(model=bytes([n]) * 32) for n in range(6)))
    assert len(encode(sign(usual, key))) <= 1024


def test_an_offer_names_a_model_once_and_sells_something() -> None:
    with pytest.raises(ValueError, match="twice"):
        offer(stranger(1), models=(model_offer(), model_offer(warm=False)))
    with pytest.raises(ValueError, match="no model"):
        offer(stranger(1), models=())
    assert offer(stranger(1), models=(), slots=0).withdrawn


@given(st.integers(0, MAX_WEI), st.integers(1, 4096))
def test_the_price_of_a_shape_is_rounded_up_once(price: int, steps: int) -> None:
    made, asked = offer(stranger(1), price=price), shape(steps=steps)
    wei = made.price_of(asked)
    assert (wei - 1) * 10**6 < asked.units * price <= wei * 10**6


@pytest.mark.parametrize(
    ("changes", "asked", "rule"),
    [
        ({}, {}, None),
        ({}, {"pipeline": "llm"}, Rule.PIPELINE),
        ({}, {"model": b"\x09" * 32}, Rule.MODEL),
        ({"slots": 0}, {}, Rule.MODEL),
        ({}, {"width": 264}, Rule.PARAMETERS),
        ({}, {"height": 264}, Rule.PARAMETERS),
        ({}, {"steps": 1001}, Rule.PARAMETERS),
        ({"models": (model_offer(quality=Quality.FAST),)}, {}, Rule.QUALITY),
        ({"models": (model_offer(quality=Quality.FAST),)}, {"quality": Quality.FAST}, None),
        ({}, {"quality": Quality.FAST}, None),
        ({"verification": (Verification.RECEIPT,)}, {}, Rule.VERIFICATION),
        ({"verification": (Verification.RECEIPT,)}, {"verification": Verification.NONE}, None),
    ],
)
def test_what_keeps_an_offer_from_a_job(changes: dict, asked: dict, rule: Rule | None) -> None:
    assert offer(stranger(1), **changes).unfit(shape(**asked)) is rule


def test_an_offer_lives_three_intervals() -> None:
    assert offer(stranger(1), refresh_s=300).expires_at == NOW + 900


def test_golden_bytes() -> None:
    made = offer(stranger(1), payout=Address(b"\x33" * 20))
    golden = (
        "9e a5 6f66666572 02 a4 74657374 92 cd0539 c414 " + "11" * 20 + " c427 " + stranger(1).hex() + " 01 ad "
        "746578742d746f2d696d616765 91 9c a4 74696e79 c420 " + "01" * 32 + " 40 cd0100 cd03e8 a7 666c6f61743332 a5 "
        "6578616374 c3 ce000f4240 cd1388 00 00 ce001e8480 01 91 a5 7472616365 c414 " + "33" * 20 + " cd012c ce6b49d200"
    )
    assert encode(made) == bytes.fromhex(golden)
    load = Load("llm", 7, 2, 1, 900, (MODEL,))
    assert encode(load) == bytes.fromhex("98 a4 6c6f6164 01 a3 6c6c6d 07 02 01 cd0384 91 c420 " + "01" * 32)


@given(st.integers(0, 5000), st.binary(min_size=1, max_size=4))
def test_a_garbled_offer_raises_one_error(at: int, junk: bytes) -> None:
    data = encode(offer(stranger(1)))
    at %= len(data)
    garbled = data[:at] + junk + data[at + len(junk) :]
    try:
        value = decode(garbled)
    except (MalformedMessage, UnknownMessage):
        return
    assert isinstance(value, Offer)
    assert encode(value) == garbled
