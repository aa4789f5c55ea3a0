"""Valid market values for tests, each field of which a test may replace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import coincurve

from compute.spec import Input, JobShape, JobSpec, Option, Quality, Verification
from ledger.money import Settlement
from market.book import OrderBook
from market.offer import ModelOffer, Offer
from p2p.envelope import Signed, sign
from p2p.peer import Address, PeerId, address_of, peer_of

NETWORK = "test"
SETTLEMENT = Settlement(1337, Address(b"\x11" * 20))
OTHER_SETTLEMENT = Settlement(1, Address(b"\x22" * 20))
PIPELINE = "text-to-image"
MODEL = b"\x01" * 32
OTHER_MODEL = b"\x02" * 32
NOW = 1_800_000_000  # calendar seconds


class Key:
    """A signer with a key made of a number."""

    def __init__(self, number: int) -> None:
        self._key = coincurve.PrivateKey((number + 1).to_bytes(32, "big"))

    @property
    def peer(self) -> PeerId:
        return peer_of(self._key.public_key.format(compressed=True))

    @property
    def address(self) -> Address:
        return address_of(self.peer)

    def sign(self, digest: bytes) -> bytes:
        raw = self._key.sign_recoverable(digest, hasher=None)
        return raw[:64] + bytes([raw[64] + 27])


def stranger(number: int) -> PeerId:
    """A peer id without a key behind it, for what checks no signature."""
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


UNSIGNED = Signed(b"\0", b"\0" * 65)


def model_offer(**changes: Any) -> ModelOffer:
    plain = ModelOffer(
        name="tiny",
        model=MODEL,
        native_side=64,
        max_side=256,
        max_steps=1000,
        dtype="float32",
        quality=Quality.EXACT,
        warm=True,
        speed=1_000_000,
        load_ms=5000,
    )
    return replace(plain, **changes)


def offer(seller: PeerId, *, model: ModelOffer | None = None, **changes: Any) -> Offer:
    plain = Offer(
        network=NETWORK,
        settlement=SETTLEMENT,
        seller=seller,
        serial=1,
        pipeline=PIPELINE,
        models=(model or model_offer(),),
        price=2_000_000,
        slots=1,
        verification=(Verification.TRACE,),
        payout=Address(seller[-20:]),
        refresh_s=300,
        issued_at=NOW,
    )
    return replace(plain, **changes)


def signed_offer(key: Key, **changes: Any) -> tuple[Offer, Signed]:
    made = offer(key.peer, **changes)
    return made, sign(made, key)


def book_of(*offers: Offer, subnets: dict[PeerId, bytes] | None = None, capacity: int = 100_000) -> OrderBook:
    book = OrderBook(NETWORK, capacity)
    for one in offers:
        book.post(one, UNSIGNED, NOW, (subnets or {}).get(one.seller))
    return book


def shape(**changes: Any) -> JobShape:
    plain = JobShape(pipeline=PIPELINE, model=MODEL, width=64, height=64, steps=20, guided=True)
    return replace(plain, **changes)


def spec(**changes: Any) -> JobSpec:
    plain = JobSpec(shape=shape(), prompt="a red square", negative_prompt="", guidance=5000, seed=7, salt=b"\x07" * 16)
    return replace(plain, **changes)


def spec_on_files(
    *, sizes: tuple[int, ...] = (5, 6), options: tuple[tuple[str, str], ...] = (("motion", "left"),)
) -> JobSpec:
    """A job on inputs, with options."""
    inputs = tuple(Input("image/png", size, bytes([number + 1]) * 32) for number, size in enumerate(sizes))
    asked = tuple(Option(name, value) for name, value in options)
    return spec(shape=shape(input_bytes=sum(sizes), length=16), inputs=inputs, options=asked)
