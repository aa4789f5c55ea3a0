"""The trace: one root for one run, a path for each leaf, and no other way to that root."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Dtype
from compute.trace import (
    FINISHED,
    MAX_LEAVES,
    TraceLeaf,
    draw_steps,
    leaf_hash,
    merkle_path,
    merkle_root,
    verify_leaf,
    verify_path,
)

JOB = b"j" * 32


def leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(bytes([0]) + i.to_bytes(2, "big")).digest() for i in range(count)]


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_a_leaf_is_hashed_over_fixed_width_fields() -> None:
    raw = bytes.fromhex("0000803f")
    plain = b"\0" + JOB + (3).to_bytes(4, "big") + (749).to_bytes(4, "big") + b"\x04fp32" + raw
    assert leaf_hash(JOB, 3, 749, Dtype.FP32, raw) == hashlib.sha256(plain).digest()


def test_small_trees_are_as_drawn() -> None:
    a, b, c, d, e = leaves(5)
    assert merkle_root([a]) == a
    assert merkle_root([a, b]) == node(a, b)
    assert merkle_root([a, b, c]) == node(node(a, b), c)
    assert merkle_root([a, b, c, d, e]) == node(node(node(a, b), node(c, d)), e)
    assert merkle_path([a, b, c], 1) == (a, c)
    assert merkle_path([a, b, c], 2) == (node(a, b),)


@given(st.data(), st.integers(1, 70))
def test_every_leaf_has_one_path(data: st.DataObject, count: int) -> None:
    all_leaves = leaves(count)
    index = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count - 1))
    root, path = merkle_root(all_leaves), merkle_path(all_leaves, index)
    assert verify_path(root, all_leaves[index], index, count, path)
    if other != index:
        assert not verify_path(root, all_leaves[other], index, count, path)
        assert not verify_path(root, all_leaves[index], other, count, path)
    assert not verify_path(root, all_leaves[index], index, count, (*path, root))
    if path:
        assert not verify_path(root, all_leaves[index], index, count, path[:-1])
        broken = (bytes(32), *path[1:])
        assert not verify_path(root, all_leaves[index], index, count, broken)


def test_an_inner_node_is_no_leaf() -> None:
    a, b, c, d = leaves(4)
    root = merkle_root([a, b, c, d])
    assert verify_path(root, node(a, b), 0, 2, (node(c, d),))  # bare hashes cannot tell: the leaf's own hash must
    posing = TraceLeaf(0, 1, Dtype.FP32, a + b, (node(c, d),))
    assert not verify_leaf(root, JOB, 1, posing)


@pytest.mark.parametrize("count", [0, MAX_LEAVES + 1])
def test_the_number_of_leaves_is_bounded(count: int) -> None:
    with pytest.raises(ValueError, match="leaves"):
        merkle_root([bytes(32)] * count)
    assert not verify_path(bytes(32), bytes(32), 0, count, ())


def opened(steps: int = 5) -> tuple[bytes, list[TraceLeaf]]:
    runs = [(steps - k if k < steps else FINISHED, bytes([k] * 8)) for k in range(steps + 1)]
    hashes = [leaf_hash(JOB, k, t, Dtype.FP32, raw) for k, (t, raw) in enumerate(runs)]
    made = [TraceLeaf(k, t, Dtype.FP32, raw, merkle_path(hashes, k)) for k, (t, raw) in enumerate(runs)]
    return merkle_root(hashes), made


def test_every_field_of_a_leaf_is_bound() -> None:
    root, made = opened()
    assert all(verify_leaf(root, JOB, 5, leaf) for leaf in made)
    leaf = made[2]
    for changed in (
        replace(leaf, index=3),
        replace(leaf, timestep=leaf.timestep + 1),
        replace(leaf, dtype=Dtype.BF16),
        replace(leaf, raw=leaf.raw[:-1] + b"\xff"),
        replace(leaf, path=leaf.path[1:]),
        replace(leaf, index=6),
    ):
        assert not verify_leaf(root, JOB, 5, changed)
    assert not verify_leaf(root, b"k" * 32, 5, leaf)
    assert not verify_leaf(root, JOB, 4, made[5])
    assert not verify_leaf(root, JOB, 6, made[5])


def test_only_the_last_leaf_is_finished() -> None:
    _, made = opened()
    assert made[-1].timestep == FINISHED
    early = [leaf_hash(JOB, k, FINISHED, Dtype.FP32, b"x") for k in range(3)]
    for index in (0, 1):
        leaf = TraceLeaf(index, FINISHED, Dtype.FP32, b"x", merkle_path(early, index))
        assert not verify_leaf(merkle_root(early), JOB, 2, leaf)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(1, 1000))
def test_a_draw_can_be_repeated_and_is_distinct(receipt: bytes, challenge: bytes, steps: int) -> None:
    drawn = draw_steps(receipt, challenge, steps, 3)
    assert drawn == draw_steps(receipt, challenge, steps, 3)
    assert len(set(drawn)) == len(drawn) == min(3, steps)
    assert all(0 <= step < steps for step in drawn)


def test_a_draw_reaches_every_step_and_hangs_on_the_challenge() -> None:
    draws = [draw_steps(JOB, bytes([i]) * 32, 4, 1)[0] for i in range(64)]
    assert set(draws) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="draw"):
        draw_steps(JOB, b"short", 4, 1)
