"""Three terminals and a fourth: bootstrap, orchestrator, gateway with only their role, in any order; then bids."""

from __future__ import annotations

import re
from collections.abc import Generator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.processes import BidOutcome, LocalMarket, local_market, outcome

pytestmark = pytest.mark.live

ROLES = ("bootstrap", "orchestrator", "gateway")
KEYS = {
    *("job_id", "gateway", "orchestrator", "tried", "price_wei", "limit_wei", "paid_wei", "seed", "sha256", "receipt"),
    *("out", "seconds", "cost_wei", "safety"),
}
PHASES = {"discover", "auction", "queue", "run", "transfer", "total"}


@pytest.fixture
def market(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    with local_market(tmp_path, request) as market:
        yield market


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height as the first chunk has them (PNG specification, section 11.2.2)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def check_ready(said: dict[str, object], role: str) -> None:
    assert list(said) == ["role", "peer_id", "addrs", "address", "http"]
    assert said["role"] == role
    assert str(said["peer_id"]).startswith("16Uiu2HA")
    assert said["addrs"]
    assert all(str(addr).endswith(f"/p2p/{said['peer_id']}") for addr in said["addrs"])  # type: ignore[attr-defined]
    assert re.fullmatch("0x[0-9a-fA-F]{40}", str(said["address"]))
    assert said["http"] is None


def check_report(got: BidOutcome, ready: dict[str, dict[str, object]], side: tuple[int, int]) -> None:
    assert got.code == 0, got.process.tail()
    report = got.report
    assert set(report) == KEYS
    assert set(report["seconds"]) == PHASES
    assert report["gateway"] == ready["gateway"]["peer_id"]
    assert report["orchestrator"] == ready["orchestrator"]["peer_id"]
    assert report["tried"] == [report["orchestrator"]]
    assert 0 < report["price_wei"] <= report["limit_wei"]
    assert report["paid_wei"] >= report["price_wei"]
    picture = (got.process.cwd / report["out"]).read_bytes()
    assert sha256(picture).hexdigest() == report["sha256"]
    assert size_of(picture) == side
    steps = [one for one in got.news if one["event"] == "step"]
    assert steps
    assert all({"event", "job_id", "orchestrator", "step", "steps"} <= set(one) for one in steps)


def test_all_at_once_then_bids(market: LocalMarket) -> None:
    nodes = {role: market.role(role) for role in ROLES}
    ready = {role: node.ready() for role, node in nodes.items()}
    for role, said in ready.items():
        check_ready(said, role)
    local = f"/tcp/{market.port}/"
    assert sum(local in str(addr) for said in ready.values() for addr in said["addrs"]) == 1

    picture = market.home / "big.png"
    big = market.bidding(
        "a red circle", "--width", "128", "--height", "96", "--steps", "12", "--seed", "7", "--out", str(picture)
    )
    small = market.bidding("a blue square")  # at the same time, from the next free client
    first, second = outcome(big), outcome(small)
    check_report(first, ready, (128, 96))
    check_report(second, ready, (64, 64))
    assert first.report["seed"] == 7
    assert first.report["out"] == str(picture)
    assert {Path(got.report["receipt"]).parts[-3] for got in (first, second)} == {"client-1", "client-2"}

    receipt = first.report["receipt"]
    assert market.run("verify", receipt, str(picture)).wait() == 0
    data = bytearray(picture.read_bytes())
    data[len(data) // 2] ^= 1
    picture.write_bytes(data)
    assert market.run("verify", receipt, str(picture)).wait() == 4

    for node in nodes.values():
        assert node.stdout == [node.stdout[0]]  # one line, and nothing but READY
        assert "Traceback" not in node.errors()
        assert node.alive


@pytest.mark.prove
@pytest.mark.parametrize("order", [("gateway", "orchestrator", "bootstrap"), ("orchestrator", "bootstrap", "gateway")])
def test_one_after_the_other(market: LocalMarket, order: tuple[str, ...]) -> None:
    ready = {}
    for role in order:
        ready[role] = market.role(role).ready()
        check_ready(ready[role], role)
    check_report(market.bid(), ready, (64, 64))
