"""Exit codes, and the one clear line before a node listens or announces itself."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.processes import LocalMarket, Process, local_market, outcome, run_all

pytestmark = pytest.mark.live

HERE = "/ip4/127.0.0.1/tcp"


@pytest.fixture
def market(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    with local_market(tmp_path, request) as market:
        yield market


@pytest.fixture(scope="module", autouse=True)
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Generator[Process]:
    """A bid on a market without a gateway. It looks for one for a while, beside all other tests."""
    with local_market(tmp_path_factory.mktemp("lonely")) as market:
        market.role("bootstrap").ready()
        yield market.bidding("a red circle")


@pytest.fixture
def taken() -> Generator[int]:
    """A port on which somebody else listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def keys(folder: Path) -> dict[str, Path]:
    """Data directories whose key cannot be used, by what their line says."""
    found = {}
    for name, text, mode in (
        ("garbled", "garbage", 0o600),
        ("read by others", "{}", 0o644),
        ("Is a directory", "", None),
    ):
        path = folder / name.replace(" ", "-")
        path.mkdir(mode=0o700, parents=True)
        key = path / "key.json"
        if mode is None:
            key.mkdir()
        else:
            key.write_text(text)
            key.chmod(mode)
        found[name] = path
    return found


def long_prompt(folder: Path) -> Path:
    """A megabyte of words."""
    path = folder / "words"
    path.write_text("word " * 200_000)
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "empty.png"
    path.touch()
    return path


def test_every_mistake_is_one_line_and_code_2(market: LocalMarket, taken: int, tmp_path: Path) -> None:
    wrong: list[tuple[str, list[str]]] = [
        ("--role", []),
        ("none of orchestrator", ["--role", "seller"]),
        ("--nosuchflag", ["--role", "gateway", "--nosuchflag"]),
        ("no multiaddr", ["--role", "gateway", "--listen", "nonsense"]),
        ("no multiaddr", ["--role", "bootstrap", "--listen", f"{HERE}/99999"]),
        ("no multiaddr", ["--role", "gateway", "--announce", "nonsense"]),
        ("names no peer", ["--role", "gateway", "--bootstrap", f"{HERE}/1"]),
        ("network", ["--role", "gateway", "--network", "NO NAME"]),
        ("no whole amount of wei", ["--role", "orchestrator", "--price", "-5"]),
        ("no http(s) URL", ["--role", "gateway", "--rpc", "nonsense"]),
        ("broker", ["--role", "gateway", "--broker", "0x12"]),
        ("loopback", ["--role", "gateway", "--http", "0.0.0.0:80"]),
        ("in use", ["--role", "bootstrap", "--listen", f"{HERE}/{taken}"]),
        ("cannot be reached", ["--role", "gateway", "--rpc", "http://127.0.0.1:9"]),
        ("cannot use", ["--role", "bootstrap", "--data-dir", "/proc/nowhere"]),
        ("--prompt", ["bid", "text-to-image"]),
        ("no amount", ["bid", "text-to-image", "--prompt", "x", "--limit", "much"]),
        ("for nothing", ["bid", "text-to-image", "--prompt", "x", "--limit", "0"]),
        ("no multiaddr", ["bid", "text-to-image", "--prompt", "x", "--bootstrap", "nonsense"]),
        ("cannot read", ["bid", "text-to-image", "--prompt-file", "/nowhere"]),
        ("--guidance", ["bid", "text-to-image", "--prompt", "x", "--guidance", "nan"]),
        ("guidance: inf", ["bid", "text-to-image", "--prompt", "x", "--guidance", "inf"]),
        ("guidance", ["bid", "text-to-image", "--prompt", "x", "--guidance", "1e300"]),
        ("--deadline", ["bid", "text-to-image", "--prompt", "x", "--deadline", "nan"]),
        ("seed", ["bid", "text-to-image", "--prompt", "x", "--seed", "-1"]),
        ("seed", ["bid", "text-to-image", "--prompt", "x", "--seed", str(2**53)]),
        ("width", ["bid", "text-to-image", "--prompt", "x", "--width", "-64"]),
        ("sides", ["bid", "text-to-image", "--prompt", "x", "--width", "65"]),
        ("steps", ["bid", "text-to-image", "--prompt", "x", "--steps", "0"]),
        ("prompt", ["bid", "text-to-image", "--prompt", "x" * 5000]),
        ("larger than", ["bid", "text-to-image", "--prompt-file", str(long_prompt(tmp_path))]),
        ("NAME=VALUE", ["bid", "text-to-image", "--prompt", "x", "--set", "a=" + "1" * 257]),
        ("can be sent", ["bid", "upscale", "--file", str(empty_file(tmp_path))]),
        ("cannot read", ["verify", "/nowhere", "/nowhere"]),
        *((name, ["--role", "bootstrap", "--data-dir", str(path)]) for name, path in keys(tmp_path).items()),
    ]
    for (expected, _), got in zip(wrong, run_all(market, [argv for _, argv in wrong]), strict=True):
        lines = got["stderr"].splitlines()
        assert got["code"] == 2, got
        assert got["stdout"] == "", got
        assert len(lines) == 1, got
        assert lines[0].startswith("pasar: "), got
        assert expected in lines[0], got


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_not_used(market: LocalMarket, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir(mode=0o700)
    key = folder / "key.json"
    key.write_text("{}")
    key.chmod(0o600)
    os.chown(key, 12345, 12345)
    (got,) = run_all(market, [["--role", "bootstrap", "--data-dir", str(folder)]])
    assert got["code"] == 2
    assert "belongs to" in got["stderr"]


def test_taken_ports_stop_roles_with_money_too(market: LocalMarket, taken: int) -> None:
    for flags in (["--listen", f"{HERE}/{taken}"], ["--http", f"127.0.0.1:{taken}"]):
        process = market.role("gateway", *flags)
        assert process.wait() == 2
        assert process.stdout == []
        assert str(taken) in process.errors().splitlines()[-1]
    assert not (market.home / "devchain").exists()  # found before any money moved


def test_without_the_chain_a_second_start_goes_on_and_says_so(market: LocalMarket) -> None:
    chain = market.start("devchain")
    rpc = json.loads(chain.line().removeprefix("READY "))["rpc"]
    assert rpc.endswith(f":{market.port + 1}")  # the port pair of this configuration
    first = market.role("gateway", "--rpc", rpc)
    first.ready()
    first.kill()
    chain.kill()
    second = market.role("gateway", "--rpc", rpc)
    assert second.ready()["role"] == "gateway"
    assert "chain" in second.errors()
    assert "known" in second.errors()
    third = market.role("gateway", "--rpc", rpc, "--data-dir", str(market.home / "fresh"))
    assert third.wait() == 2


def test_a_bid_that_finds_no_gateway_ends_with_5(lonely: Process) -> None:
    got = outcome(lonely)
    assert got.code == 5
    assert got.report["refusal"]["code"] == "NO_GATEWAY"
    assert "--bootstrap" in got.report["refusal"]["hint"]
