"""Receipts are checked alone: by bytes, two signatures and the artifact; each thing that can be wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.spec import Verification
from market.receipt import (
    MAX_ARTIFACTS,
    MAX_RECEIPT,
    PROTOCOL,
    ArtifactDigest,
    CountersignedReceipt,
    NotVerified,
    Problem,
    Receipt,
    Times,
    Verified,
    as_dict,
    check_signed,
    countersign,
    digests_of,
    verify_receipt,
)
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.peer import Address
from tests.support.market_values import NETWORK, NOW, PIPELINE, SETTLEMENT, Key, shape, spec

SELLER, GATEWAY = Key(1), Key(2)
PICTURE = b"\x89PNG picture"
SPEC = spec()


def receipt(**changes: object) -> Receipt:
    plain = Receipt(
        protocol=PROTOCOL,
        network=NETWORK,
        settlement=SETTLEMENT,
        job_id=b"\x0a" * 32,
        attempt=1,
        gateway=GATEWAY.peer,
        sender=GATEWAY.address,
        orchestrator=SELLER.peer,
        quote=b"\x0b" * 32,
        spec=SPEC.digest,
        pipeline=PIPELINE,
        model=SPEC.shape.model,
        dtype="float32",
        seed=SPEC.seed,
        steps=SPEC.shape.steps,
        artifacts=digests_of([("image/png", PICTURE)]),
        trace_root=b"\x0c" * 32,
        trace_kept_until=(NOW + 600) * 1000,
        price=327_680,
        paid=300_000,
        times=Times(NOW * 1000, NOW * 1000 + 5, NOW * 1000 + 905, 5, 900),
    )
    return replace(plain, **changes)


def kept(**changes: object) -> bytes:
    return countersign(sign(receipt(**changes), SELLER), GATEWAY)


def problems(verdict: Verified | NotVerified) -> list[Problem]:
    assert isinstance(verdict, NotVerified), "it was verified"
    return [found.problem for found in verdict.problems]


def test_a_good_receipt_is_verified_alone() -> None:
    assert verify_receipt(kept(), [PICTURE]) == Verified(receipt())
    assert verify_receipt(kept(), [PICTURE], SPEC) == Verified(receipt())


@pytest.mark.parametrize(
    ("changes", "files", "expected"),
    [
        ({}, [b"\x89PNG pictura"], [Problem.ARTIFACT_DIGEST]),
        ({}, [PICTURE + b"\0"], [Problem.ARTIFACT_SIZE]),
        ({}, [], [Problem.ARTIFACT_COUNT]),
        ({}, [PICTURE, PICTURE], [Problem.ARTIFACT_COUNT]),
        ({"seed": 8}, [PICTURE], [Problem.SPEC_FIELDS]),
        ({"steps": 19}, [PICTURE], [Problem.SPEC_FIELDS]),
        ({"model": b"\x09" * 32}, [PICTURE], [Problem.SPEC_FIELDS]),
        ({"pipeline": "llm"}, [PICTURE], [Problem.SPEC_FIELDS]),
        ({"spec": b"\x09" * 32}, [PICTURE], [Problem.SPEC_DIGEST]),
        ({"trace_root": None}, [PICTURE], [Problem.TRACE_MISSING]),
        ({"orchestrator": GATEWAY.peer}, [PICTURE], [Problem.SELLER_SIGNATURE]),
        ({"gateway": SELLER.peer, "sender": SELLER.address}, [PICTURE], [Problem.GATEWAY_SIGNATURE]),
        ({"sender": Address(b"\x01" * 20)}, [PICTURE], [Problem.GATEWAY_SIGNATURE]),
        ({"seed": 8}, [b""], [Problem.ARTIFACT_SIZE, Problem.SPEC_FIELDS]),
    ],
)
def test_each_thing_that_is_wrong_is_named(
    changes: dict[str, object], files: list[bytes], expected: list[Problem]
) -> None:
    assert problems(verify_receipt(kept(**changes), files, SPEC)) == expected


def test_without_the_spec_only_the_receipt_and_the_file_are_checked() -> None:
    assert isinstance(verify_receipt(kept(seed=8, trace_root=None), [PICTURE]), Verified)


def test_no_trace_was_asked_none_is_missed() -> None:
    plain = spec(shape=shape(verification=Verification.RECEIPT))
    made = kept(spec=plain.digest, trace_root=None, trace_kept_until=0)
    assert isinstance(verify_receipt(made, [PICTURE], plain), Verified)


def test_a_receipt_that_only_the_seller_signed_is_what_the_gateway_checks() -> None:
    signed = sign(receipt(), SELLER)
    assert problems(verify_receipt(encode(signed), [PICTURE])) == [Problem.NOT_COUNTERSIGNED]
    assert check_signed(signed, [PICTURE], SPEC) == Verified(receipt())
    assert problems(check_signed(signed, [b"other"], SPEC)) == [Problem.ARTIFACT_SIZE]
    assert problems(check_signed(sign(receipt(), GATEWAY), [PICTURE])) == [Problem.SELLER_SIGNATURE]


def test_signatures_of_others_and_broken_ones_are_named() -> None:
    signed = sign(receipt(), SELLER)
    assert problems(verify_receipt(countersign(signed, SELLER), [PICTURE])) == [Problem.GATEWAY_SIGNATURE]
    assert problems(verify_receipt(countersign(sign(receipt(), Key(9)), GATEWAY), [PICTURE])) == [
        Problem.SELLER_SIGNATURE
    ]
    broken_inside = countersign(Signed(signed.payload, b"\xff" * 65), GATEWAY)
    assert problems(verify_receipt(broken_inside, [PICTURE])) == [Problem.SELLER_SIGNATURE]
    inner = encode(CountersignedReceipt(signed))
    assert problems(verify_receipt(encode(Signed(inner, b"\xff" * 65)), [PICTURE])) == [Problem.GATEWAY_SIGNATURE]


def test_what_is_no_receipt_is_said_to_be_none() -> None:
    assert problems(verify_receipt(b"", [])) == [Problem.MALFORMED]
    assert problems(verify_receipt(b"{}", [PICTURE])) == [Problem.MALFORMED]
    assert problems(verify_receipt(encode(receipt()), [PICTURE])) == [Problem.MALFORMED]
    assert problems(verify_receipt(encode(sign(SPEC, SELLER)), [PICTURE])) == [Problem.MALFORMED]
    assert problems(verify_receipt(b"\0" * (MAX_RECEIPT + 1), [PICTURE])) == [Problem.MALFORMED]
    newer = kept().replace(b"countersigned-receipt\x01", b"countersigned-receipt\x02")
    assert problems(verify_receipt(newer, [PICTURE])) == [Problem.UNKNOWN_VERSION]


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_flipped_byte_is_verified_and_none_raises(at: int, flip: int) -> None:
    data = bytearray(kept())
    data[at % len(data)] ^= flip
    assert isinstance(verify_receipt(bytes(data), [PICTURE], SPEC), NotVerified)


@given(st.binary(max_size=300))
def test_junk_is_never_verified_and_never_raises(data: bytes) -> None:
    assert isinstance(verify_receipt(data, [PICTURE]), NotVerified)


def test_the_longest_receipt_can_be_kept() -> None:
    longest = ArtifactDigest("m" * 64, 2**31, b"\xff" * 32)
    made = countersign(sign(receipt(artifacts=(longest,) * MAX_ARTIFACTS, network="n" * 32), SELLER), GATEWAY)
    assert len(made) <= MAX_RECEIPT


def test_people_read_it_as_json() -> None:
    shown = json.loads(json.dumps(as_dict(receipt())))
    assert shown["orchestrator"].startswith("16Uiu2HA")
    assert shown["sender"].startswith("0x")
    assert (shown["price_wei"], shown["paid_wei"]) == ("327680", "300000")
    assert shown["sealed_at"] == "2027-01-15T08:00:00.905Z"
    assert shown["artifacts"][0]["sha256"] == receipt().artifacts[0].digest.hex()
    odd = as_dict(receipt(trace_root=None, trace_kept_until=0, times=Times(2**64 - 1, 0, 0, 0, 0)))
    assert (odd["trace_root"], odd["trace_kept_until"], odd["queued_at"]) == (None, None, str(2**64 - 1))
