"""What the README promises exists: its links, its commands, and the demo's real output with its time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import node
from compute.picture import png_size
from market.console import run_app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 8
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_every_command_in_the_table_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(node.app, ["--help"]) == 0
    known = capsys.readouterr().out
    named = re.findall(r"^\| `node\.py ([a-z]+)", README, re.MULTILINE)
    assert len(named) >= 7
    assert [name for name in named if not re.search(rf"\b{name}\b", known)] == []


def test_the_demos_output_is_shown_with_a_picture() -> None:
    shown = README.split("<!-- demo output: docs/refresh_demo.py -->")[1].split("<!-- end of demo output -->")[0]
    assert re.search(r"first picture after \d+\.\d s", shown)
    assert "redeemed on chain" in shown
    width, height = png_size((ROOT / "docs/images/demo.png").read_bytes()) or (0, 0)
    assert width > 2 * height > 0
