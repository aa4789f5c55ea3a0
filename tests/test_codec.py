"""One value, one encoding: golden bytes, round trips, and nothing but two errors for whatever a peer sends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import codec
from p2p.codec import MAX_INT, Hash, Name, Range, Size, Wei, decode, decode_as, encode, message
from p2p.errors import MalformedMessage, UnknownMessage


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: Annotated[int, Range(0, 7)]


@message("test-kinds", 1)
@dataclass(frozen=True, slots=True)
class Everything:
    number: Wei
    flag: bool
    text: Name
    raw: Annotated[bytes, Size(0, 100)]
    colour: Colour
    point: Point
    maybe: int | None
    pair: tuple[int, str]
    many: Annotated[tuple[Point, ...], Size(0, 3)]


@message("test-kinds", 2)
@dataclass(frozen=True, slots=True)
class Smaller:
    digest: Hash

    def __post_init__(self) -> None:
        if self.digest == bytes(32):
            raise ValueError("a digest of nothing")


points = st.builds(Point, st.integers(0, MAX_INT), st.integers(0, 7))
everything = st.builds(
    Everything,
    st.integers(0, MAX_INT) | st.sampled_from([0, 2**64 - 1, 2**64, MAX_INT]),
    st.booleans(),
    st.text(min_size=1, max_size=24),
    st.binary(max_size=100),
    st.sampled_from(Colour),
    points,
    st.none() | st.integers(0, 2**70),
    st.tuples(st.integers(0, 5), st.text(max_size=5)),
    st.lists(points, max_size=3).map(tuple),
)
SAMPLE = Everything(2**64, True, "ä", b"\x00", Colour.RED, Point(1, 2), None, (3, ""), (Point(4, 5),))
GOLDEN = "9baa746573742d6b696e647301c70901010000000000000000c3a2c3a4c40100a3726564920102c09203a091920405"


@given(everything)
def test_a_round_trip_changes_nothing(value):
    data = encode(value)
    assert decode(data) == value
    assert encode(decode(data)) == data


def test_the_bytes_never_change():
    assert encode(SAMPLE).hex() == GOLDEN
    assert decode(bytes.fromhex(GOLDEN)) == SAMPLE


def expect_only_ours(data: bytes) -> None:
    try:
        value = decode(data)
    except (MalformedMessage, UnknownMessage):
        return
    assert encode(value) == data


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_one_of_two_errors(data):
    expect_only_ours(data)


@given(everything, st.data())
def test_a_damaged_message_gives_a_message_or_one_of_two_errors(value, data):
    raw = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    expect_only_ours(bytes(raw))
    expect_only_ours(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(plain, min_size=9, max_size=9))
def test_well_formed_msgpack_of_wrong_types_is_malformed(items):
    expect_only_ours(msgpack.packb(["test-kinds", 1, *items], use_bin_type=True))


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
def test_depth_is_bounded(depth):
    with pytest.raises(MalformedMessage):
        decode(b"\x91" * depth + b"\xc0")


def packed(*items: object) -> bytes:
    return msgpack.packb(list(items), use_bin_type=True)


DIGEST = b"d" * 32


@pytest.mark.parametrize(
    "data",
    [
        b"\xdc\x00\x03" + packed("test-kinds", 2, DIGEST)[1:],  # the array with a longer head than it needs
        packed("test-kinds", 2, DIGEST).replace(b"\x02\xc4", b"\xcc\x02\xc4"),  # an integer with a longer head
        packed("test-kinds", 2, DIGEST).replace(b"\xc4\x20", b"\xc5\x00\x20"),  # bytes with a longer head
        packed("test-kinds", 2, DIGEST) + b"\xc0",  # something behind it
        packed("test-kinds", 2, DIGEST, 1),
        packed("test-kinds", 2),
        packed("test-kinds", 2, bytes(32)),  # what the class itself forbids
        packed("test-kinds", 2, b"d" * 31),
        packed("test-kinds", 2, "d" * 32),
        packed("test-kinds", 2.0, DIGEST),
        packed("test-kinds", True, DIGEST),
        packed("test-kinds"),
        packed(),
        b"",
        b"\xc1",
        packed("test-kinds", 2, msgpack.ExtType(1, bytes(9))),
        packed("test-kinds", 2, msgpack.ExtType(5, b"x" * 9)),
    ],
)
def test_what_is_not_canonical_is_malformed(data):
    with pytest.raises(MalformedMessage):
        decode(data)


@pytest.mark.parametrize(
    "number",
    [
        msgpack.ExtType(1, b"\x00" + b"\xff" * 9),  # a leading zero
        msgpack.ExtType(1, b"\xff" * 8),  # fits in 64 bits
        msgpack.ExtType(1, b"\xff" * 33),
        -1,
        1.0,
    ],
)
def test_an_integer_has_one_form(number):
    raw = msgpack.unpackb(
        encode(SAMPLE), use_list=True, raw=False, ext_hook=lambda code, data: msgpack.ExtType(code, data)
    )
    raw[2] = number
    with pytest.raises(MalformedMessage):
        decode(packed(*raw))


def test_unknown_kinds_and_versions_are_nobodys_fault():
    for head in (("test-kinds", 3), ("test-unheard-of", 1), ("test-kinds", -1)):
        with pytest.raises(UnknownMessage):
            decode(packed(*head, 1, 2, 3))


def test_the_limit_comes_before_the_parser():
    data = encode(SAMPLE)
    assert decode(data, len(data)) == SAMPLE
    with pytest.raises(MalformedMessage, match="more than"):
        decode(data, len(data) - 1)


def test_decode_as_wants_its_class():
    assert decode_as(Smaller, encode(Smaller(DIGEST))) == Smaller(DIGEST)
    with pytest.raises(MalformedMessage):
        decode_as(Everything, encode(Smaller(DIGEST)))


def test_our_own_mistakes_are_value_errors():
    with pytest.raises(ValueError, match="outside"):
        encode(Everything(MAX_INT + 1, True, "a", b"", Colour.RED, Point(0, 0), None, (0, ""), ()))
    with pytest.raises(ValueError, match="outside"):
        encode(Smaller(b"short"))
    with pytest.raises(ValueError, match="taken"):
        message("test-kinds", 1)(Point)


def test_every_registered_message_has_its_plan():
    for cls in codec.registered().values():
        assert codec._plan(cls) is not None
