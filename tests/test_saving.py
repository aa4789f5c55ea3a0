"""Where the files of a result go, and what is said before anything is paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.saving import check_target, places, write_all
from p2p.errors import Misconfigured

LISTS = ("master.m3u8", "240p.m3u8", "240p.ts")


def test_one_file_is_what_was_named_and_several_say_which_they_are() -> None:
    out = Path("a/film.mp4")
    assert places(out, ("240p.mp4",)) == (out,)
    assert places(out, ("240p.mp4", "144p.mp4")) == (Path("a/film-240p.mp4"), Path("a/film-144p.mp4"))


def test_playlists_and_what_they_name_lie_in_one_folder(tmp_path: Path) -> None:
    paths = places(tmp_path / "film", LISTS)
    write_all(paths, (b"1", b"2", b"3"))
    assert sorted(path.name for path in (tmp_path / "film").iterdir()) == sorted(LISTS)


def test_a_target_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for out, names in (
        (tmp_path, ()),
        (tmp_path / "no" / "a.mp4", ()),
        (tmp_path / "file", LISTS),
        (tmp_path / "no" / "b", LISTS),
    ):
        with pytest.raises(Misconfigured, match="out"):
            check_target(out, names)
    for out, names in ((tmp_path / "a.mp4", ()), (tmp_path / "file", ()), (tmp_path / "new", LISTS), (tmp_path, LISTS)):
        check_target(out, names)
