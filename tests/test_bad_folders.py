"""Hostile model folders as an operator would meet them: at every command that takes one, one line that names the flaw.

What each flaw is, and that nothing is read past it, is in ``test_hostile_models.py``; here is that nobody goes around.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.support.model_folders import hollow_model
from tests.support.processes import LocalMarket, local_market, run_all

pytestmark = pytest.mark.live
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin"))


def link(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def code(folder: Path) -> None:
    (folder / "unet" / "modeling.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


def remote(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "unet": ["somebody.elses", "Unet"]}))


def lie(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((2**40).to_bytes(8, "little") + b"{}")


def overlap(folder: Path) -> None:
    header = json.dumps({name: {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]} for name in "ab"}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


HOSTILE: dict[str, Callable[[Path], None]] = {
    "pickle": pickle, "outside": link, "remote-code": code, "remote-code ": remote, "too-large": lie,
    "bad-tensor": overlap,
}  # fmt: skip
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("--role", "orchestrator", "--no-supervisor", "--model"),
    ("models", "list", "--model"),
    ("models", "bench"),
    ("models", "pin"),
)


@pytest.fixture
def market(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    with local_market(tmp_path, request) as market:
        yield market


@pytest.mark.prove
def test_no_command_serves_a_hostile_folder(market: LocalMarket, tmp_path: Path) -> None:
    folders = {}
    for number, (flaw, change) in enumerate(HOSTILE.items()):
        folders[flaw] = hollow_model(tmp_path / f"model-{number}")
        change(folders[flaw])
    first, (role, *others) = next(iter(folders.items())), COMMANDS
    tried = [(flaw, [*role, str(folder)]) for flaw, folder in folders.items()]
    tried += [(first[0], [*command, str(first[1])]) for command in others]
    for (flaw, _), got in zip(tried, run_all(market, [line for _, line in tried]), strict=True):
        assert got["code"] == 2, got
        assert got["stdout"] == "", got
        lines = [line for line in got["stderr"].splitlines() if line.startswith("pasar: ")]
        assert len(lines) == 1, got
        assert f"[{flaw.strip()}]" in lines[0], got
        assert "Traceback" not in got["stderr"]
    assert not [folder for folder in folders.values() if (folder / "ran").exists()]
    assert not (market.home / "devchain").exists()  # found before any money moved
