"""Traces on disk: what was committed can be opened, also by the next process, until time or room runs out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compute.capability import Dtype
from compute.trace import FINISHED, verify_leaf
from compute.tracestore import TraceStore
from p2p.errors import Refused
from tests.support.job_specs import job_id

A, B, C = job_id("a"), job_id("b"), job_id("c")


def record(store: TraceStore, job: bytes, steps: int = 4, size: int = 8, *, keep: bool = True) -> bytes:
    writer = store.begin(job, Dtype.FP32, keep=keep)
    for k in range(steps + 1):
        writer.add(steps - k if k < steps else FINISHED, bytes([k]) * size)
    return writer.finish()


def test_every_leaf_opens_to_the_root(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    root = record(store, A)
    leaves = store.open(A, range(5))
    assert [leaf.raw for leaf in leaves] == [bytes([k]) * 8 for k in range(5)]
    assert all(verify_leaf(root, A, 4, leaf) for leaf in leaves)


def test_traces_outlive_the_process(tmp_path: Path) -> None:
    root = record(TraceStore(tmp_path), A)
    unfinished = TraceStore(tmp_path).begin(B, Dtype.FP32, keep=True)
    unfinished.add(1, b"x")
    again = TraceStore(tmp_path)
    (leaf,) = again.open(A, [2])
    assert verify_leaf(root, A, 4, leaf)
    assert {path.suffix for path in tmp_path.iterdir()} == {".leaves", ".index"}
    assert len(list(tmp_path.iterdir())) == 2
    unfinished.discard()


def test_a_damaged_index_is_no_trace(tmp_path: Path) -> None:
    record(TraceStore(tmp_path), A)
    record(TraceStore(tmp_path), B)
    (tmp_path / f"{A.hex()}.index").write_bytes(b"\x93garbage")
    with (tmp_path / f"{B.hex()}.leaves").open("ab") as file:
        file.write(b"more")
    store = TraceStore(tmp_path)
    for job in (A, B):
        with pytest.raises(Refused, match="NO_TRACE"):
            store.open(job, [0])
    assert list(tmp_path.iterdir()) == []


def test_leaves_that_shrank_are_no_trace(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    record(store, A)
    os.truncate(tmp_path / f"{A.hex()}.leaves", 10)
    with pytest.raises(Refused, match="NO_TRACE"):
        store.open(A, [4])


def test_what_is_not_kept_is_still_committed_to(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    root = record(store, A, keep=False)
    assert list(tmp_path.iterdir()) == []
    assert record(store, A) == root
    with pytest.raises(Refused, match="NO_LEAF"):
        store.open(A, [5])
    with pytest.raises(Refused, match="NO_TRACE"):
        store.open(B, [0])


def test_the_oldest_goes_when_room_runs_out(tmp_path: Path) -> None:
    store = TraceStore(tmp_path, budget=100)
    for job in (A, B, C):
        record(store, job)  # 40 bytes each
    with pytest.raises(Refused, match="NO_TRACE"):
        store.open(A, [0])
    assert store.open(B, [0])
    assert store.open(C, [0])
    sizes = sum(path.stat().st_size for path in tmp_path.glob("*.leaves"))
    assert sizes <= 100
    again = TraceStore(tmp_path, budget=100)  # counts what it finds
    record(again, A)
    record(again, A)  # in the place of the first
    assert again.open(C, [0])
    assert again.open(A, [0])
    with pytest.raises(Refused, match="NO_TRACE"):
        again.open(B, [0])


def test_a_trace_larger_than_all_room_is_only_committed_to(tmp_path: Path) -> None:
    small, large = TraceStore(tmp_path / "small", budget=20), TraceStore(tmp_path / "large")
    assert record(small, A) == record(large, A)
    with pytest.raises(Refused, match="NO_TRACE"):
        small.open(A, [0])
    assert list((tmp_path / "small").iterdir()) == []


def test_traces_expire(tmp_path: Path) -> None:
    store = TraceStore(tmp_path, keep_s=-1)
    record(store, A)
    store.expire()
    with pytest.raises(Refused, match="NO_TRACE"):
        store.open(A, [0])
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_of_a_job_replaces_its_trace(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    record(store, A, steps=4)
    root = record(store, A, steps=2)
    (leaf,) = store.open(A, [2])
    assert verify_leaf(root, A, 2, leaf)
    with pytest.raises(Refused, match="NO_LEAF"):
        store.open(A, [4])
