"""Golden bytes of the market's messages: a change of layout is a new version, never another meaning of this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ledger.money import MAX_WEI
from market.bid import Bid, Prefer
from market.offer import Load
from market.quote import RFQ, Decline, Quote, QuoteRefusal, Release
from market.receipt import PROTOCOL, CountersignedReceipt, Receipt, Times, digests_of
from market.refusal import Code, Refusal, Rule, listed
from p2p.codec import decode, encode, wire_name
from p2p.envelope import Signed
from p2p.peer import Address
from tests.support.market_values import MODEL, NETWORK, NOW, PIPELINE, SETTLEMENT, offer, shape, spec_on_files, stranger

GOLDEN = Path(__file__).parent / "vectors" / "market.json"
SIGNED = Signed(b"\x01\x02", b"\x1b" * 65)
RFQ_1 = RFQ(b"\x05" * 16, NETWORK, SETTLEMENT, shape(), 700, 2**70)
QUOTE_1 = Quote(
    rfq=b"\x06" * 32,
    network=NETWORK,
    settlement=SETTLEMENT,
    seller=stranger(1),
    gateway=stranger(2),
    price=2**64,
    finish_by_ms=5000,
    hold_ms=700,
    late_rate=2**64,
    offer_serial=3,
    queue=0,
    taken=True,
)
RECEIPT_1 = Receipt(
    protocol=PROTOCOL,
    network=NETWORK,
    settlement=SETTLEMENT,
    job_id=b"\x0a" * 32,
    attempt=1,
    gateway=stranger(2),
    sender=Address(b"\x0e" * 20),
    orchestrator=stranger(1),
    quote=b"\x0b" * 32,
    spec=b"\x0d" * 32,
    pipeline=PIPELINE,
    model=MODEL,
    dtype="float32",
    seed=7,
    steps=20,
    artifacts=digests_of([("image/png", b"picture")]),
    trace_root=None,
    trace_kept_until=0,
    price=327_680,
    paid=MAX_WEI,
    times=Times(NOW * 1000, NOW * 1000 + 5, NOW * 1000 + 905, 5, 900),
)
VALUES: tuple[Any, ...] = (
    offer(stranger(1)),
    Load(PIPELINE, 7, 2, 1, 900, (MODEL,)),
    Bid(b"\x01" * 16, spec_on_files(), 10**18, 30_000, None, Prefer.SPEED, False),
    RFQ_1,
    QUOTE_1,
    QuoteRefusal(b"\x06" * 32, Decline.BUSY),
    Release(b"\x06" * 32),
    Refusal(Code.NO_MATCH, 3, listed({Rule.PRICE: 1, Rule.MODEL: 2}), 10, 5, "raise the limit"),
    RECEIPT_1,
    CountersignedReceipt(SIGNED),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: wire_name(type(value))[0])
def test_golden(value: Any) -> None:
    kind, version = wire_name(type(value))
    golden = bytes.fromhex(json.loads(GOLDEN.read_text())[f"{kind}/{version}"])
    assert encode(value) == golden
    assert decode(golden) == value
