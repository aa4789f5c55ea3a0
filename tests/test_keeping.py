"""What must survive a restart is whole or absent, also beside other threads and on a disk that is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from market.keeping import Keeping, KeptWork
from market.receipt import Times, digests_of
from p2p.errors import Unavailable

FILES = (b"one" * 100, b"two")
WORK = KeptWork("fp32", bytes(32), digests_of([("image/png", data) for data in FILES]), Times(1, 2, 3, 1, 1))


async def test_what_is_put_is_there_until_it_is_dropped(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path / "sealed")
    assert await keeping.names() == []
    await keeping.put("a-1", WORK, FILES)
    assert await keeping.get("a-1", KeptWork) == (WORK, list(FILES))
    assert await keeping.read("a-1", 0, 3, 3) == b"one"
    assert [name for name, _ in await keeping.names()] == ["a-1"]
    await keeping.drop("a-1")
    assert (await keeping.get("a-1", KeptWork), await keeping.names()) == (None, [])
    with pytest.raises(Unavailable):
        await keeping.read("a-1", 0, 0, 1)


async def test_what_is_dropped_while_others_look_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Keeping(tmp_path)
    await keeping.put("a-1", WORK, FILES)
    await keeping.put("b-1", WORK, FILES)
    listed = [tmp_path / "a-1.note", tmp_path / "b-1.note"]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: listed)
    (tmp_path / "a-1.note").unlink()
    assert [name for name, _ in await keeping.names()] == ["b-1"]
    await keeping.drop("a-1")


async def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping, synced = Keeping(tmp_path), []

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        await keeping.put("a-1", WORK, FILES)
    assert os.listdir(tmp_path) == []
