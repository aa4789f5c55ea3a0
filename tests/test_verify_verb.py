"""``verify --steps`` at real nodes: on this machine, and bought of another seller than the one that is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import LocalMarket, local_market

pytestmark = [pytest.mark.live, pytest.mark.prove]
ONE_MODEL = {"PASAR_MODELS": "tiny"}


def check(market: LocalMarket, receipt: str, picture: str, *more: str) -> tuple[int, dict[str, Any]]:
    process = market.run("verify", receipt, picture, "--steps", "2", "--json", *more, timeout=180)
    assert process.stdout, process.tail()
    found: dict[str, Any] = json.loads(process.stdout[-1])
    return process.wait(), found


def test_a_bought_picture_is_checked_here_and_by_another_seller(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with local_market(tmp_path, request) as market:
        for role in ("bootstrap", "gateway"):
            market.role(role).ready()
        seller = market.role("orchestrator", **ONE_MODEL).ready()["peer_id"]
        got = market.bid("a red circle", "--steps", "8")
        assert got.code == 0, got.process.tail()
        receipt, picture = got.report["receipt"], got.report["out"]
        assert Path(receipt).with_suffix(".job").stat().st_mode & 0o077 == 0

        code, own = check(market, receipt, picture, "--own")
        assert (code, own["conclusion"], own["verifiers"]) == (0, "passed", [])
        assert len(own["drawn"]) == 2

        code, lonely = check(market, receipt, picture)  # nobody checks its own work
        assert (code, lonely["conclusion"]) == (4, "unverified")

        other = market.role("orchestrator", **ONE_MODEL).ready()["peer_id"]
        code, bought = check(market, receipt, picture)
        assert (code, bought["conclusion"]) == (0, "passed"), bought
        assert bought["seller"] == seller
        assert bought["verifiers"] == [other]
        assert bought["cost_wei"] > 0
        assert {one["what"] for one in bought["findings"]} == {"START", "STEP", "PICTURE"}

        false = market.cwd / "false.png"
        false.write_bytes((market.cwd / picture).read_bytes() + b"\0")
        refused = market.run("verify", receipt, str(false), "--steps", "2")
        assert refused.wait() == 4
        assert "NOT_VERIFIED" in refused.errors()
