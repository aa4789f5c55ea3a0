"""Raw frames cross to the encoder in shared memory: the same film, whoever dies nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from compute.pipeline import BrokenOutput
from compute.pipelines import filming
from compute.pipelines.filming import FrameChild, filmed
from compute.pipelines.framechild import SLOTS
from compute.pipelines.h264 import Pixels

SIDE = 64


def frames(count: int, side: int = SIDE) -> Iterator[Pixels]:
    for index in range(count):
        picture = np.zeros((side, side, 3), np.uint8)
        picture[:, (index * 3) % side :, index % 3] = 200
        yield picture


def feed(child: FrameChild, pictures: Iterable[Pixels]) -> None:
    for picture in pictures:
        child.add(picture)


def killed(child: FrameChild, by: signal.Signals) -> None:
    """It stops in the middle of a film."""
    os.kill(child.pid, by)
    feed(child, frames(20))


def descriptors() -> set[str]:
    """What this process has open, by what it is."""
    return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and path.exists()}


@pytest.mark.parametrize("count", [1, 3, 11])
def test_a_child_makes_the_same_film(count: int) -> None:
    here = filmed(frames(count), 8, 14)
    assert filmed(frames(count), 8, 14, large=1) == here
    assert here


def test_more_frames_than_slots_arrive_in_order_while_the_child_is_slow() -> None:
    count = 10 * SLOTS
    assert filmed(frames(count, 128), 8, 14, large=1) == filmed(frames(count, 128), 8, 14)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux shows what is open")
def test_nothing_is_left_whoever_dies() -> None:
    before = descriptors()
    with pytest.raises(BrokenOutput, match="ended"), FrameChild(SIDE, SIDE, 8, 14) as child:
        killed(child, signal.SIGKILL)

    def gives_up() -> Iterator[Pixels]:
        yield from frames(6)
        raise LookupError("cancelled")

    with pytest.raises(LookupError):
        filmed(gives_up(), 8, 14, large=1)
    assert descriptors() == before
    assert not [path for path in Path("/dev/shm").iterdir() if "pasar" in path.name]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux shows what is open")
def test_a_child_ends_with_its_worker() -> None:
    """What a killed worker leaves: its end of the pipes closes, and the child has nobody to encode for."""
    with FrameChild(SIDE, SIDE, 8, 14) as child:
        feed(child, frames(2))
        assert child._process.stdin is not None
        child._process.stdin.close()
        assert child._process.wait(timeout=30) == 0


def test_a_silent_child_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filming, "PATIENCE_S", 0.2)
    with pytest.raises(BrokenOutput, match="ended"), FrameChild(SIDE, SIDE, 8, 14) as child:
        killed(child, signal.SIGSTOP)


def test_frames_of_another_size_are_no_film() -> None:
    with pytest.raises(BrokenOutput, match="size"), FrameChild(SIDE, SIDE, 8, 14) as child:
        feed(child, (*frames(1), *frames(1, 32)))
    with pytest.raises(BrokenOutput, match="bytes"):
        FrameChild(1 << 14, 1 << 14, 8, 14)
