"""Data directories and the meeting point: one holder at a time, freed with the process."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from market.instance import claim, is_held, meet
from p2p.errors import Misconfigured
from p2p.peer import peer_of

PEER = peer_of(b"\x02" + b"\x11" * 32)
ROOT = Path(__file__).parent.parent


def test_the_second_node_of_a_role_takes_the_next_directory(tmp_path: Path) -> None:
    one, two = claim(tmp_path, "main", "client"), claim(tmp_path, "main", "client")
    assert (one.path.name, two.path.name) == ("client-1", "client-2")
    one.release()
    again = claim(tmp_path, "main", "client")
    assert again.path == one.path
    again.release()
    two.release()


def test_a_directory_is_private(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    held, point = claim(home, "main", "gateway"), meet(home, 4701)
    point.announce(PEER)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (home.parent, *home.parent.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    held.release()
    point.release()


def test_a_named_directory_in_use_is_refused(tmp_path: Path) -> None:
    held = claim(tmp_path, "main", "gateway", tmp_path / "mine")
    assert is_held(tmp_path / "mine")
    with pytest.raises(Misconfigured, match="in use"):
        claim(tmp_path, "main", "gateway", tmp_path / "mine")
    held.release()
    assert not is_held(tmp_path / "mine")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="cannot use"):
        claim(tmp_path, "main", "gateway", tmp_path / "file" / "below")


def test_who_meets_first_holds_the_port(tmp_path: Path) -> None:
    first, second = meet(tmp_path, 4701), meet(tmp_path, 4701)
    assert (first.ours, second.ours) == (True, False)
    assert second.holder() is None
    first.announce(PEER)
    assert second.holder() == PEER
    first.release()
    assert not second.is_alive()
    third = meet(tmp_path, 4701)
    assert third.ours
    third.release()


def test_a_client_never_takes_the_port(tmp_path: Path) -> None:
    point = meet(tmp_path, 4701, may_hold=False)
    assert not point.ours
    assert not point.is_alive()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"peer_id": 7}', '{"peer_id": "16Ux"}', "\xff\x00", "x" * 5000]
)
def test_a_garbled_file_names_nobody(tmp_path: Path, text: str) -> None:
    point = meet(tmp_path, 4701)
    point.path.write_text(text)
    assert point.holder() is None
    point.release()


@pytest.mark.live
def test_the_kernel_frees_the_directory_of_a_killed_process(tmp_path: Path) -> None:
    code = (
        "from market.instance import claim; from pathlib import Path; "
        f"held = claim(Path({str(tmp_path)!r}), 'main', 'x'); print('held', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    assert is_held(tmp_path / "main" / "x-1")
    child.kill()
    child.communicate()
    assert not is_held(tmp_path / "main" / "x-1")
