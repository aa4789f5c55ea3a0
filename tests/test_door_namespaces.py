"""The door of a real node, with addresses that count: two network namespaces and one wire between them.

Limits for one address do not bind loopback, so nothing on this machine's own addresses can show them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from p2p.doorkeeper import HANDSHAKES_EACH, INBOUND_BURST
from p2p.host import HANDSHAKE_TIMEOUT
from tests.support.processes import ROOT

pytestmark = [pytest.mark.prove, pytest.mark.live]

NODE, CROWD, HONEST = "45.33.7.1", "45.33.7.66", "45.33.9.9"  # nobody else is in these namespaces
SCRIPT = str(Path(__file__).parent / "support" / "doorstep.py")


class Wire:
    """Two namespaces; ``start`` runs the script in one of them."""

    def __init__(self) -> None:
        self.here, self.there = (f"defence-{os.getpid()}-{side}" for side in "ab")
        self.running: list[subprocess.Popen[str]] = []

    def lay(self) -> None:
        for name in (self.here, self.there):
            _ip("netns", "add", name)
        _ip("link", "add", "d0", "netns", self.here, "type", "veth", "peer", "name", "d1", "netns", self.there)
        for name, link, addresses in ((self.here, "d0", [NODE]), (self.there, "d1", [CROWD, HONEST])):
            for address in addresses:
                _ip("-n", name, "addr", "add", f"{address}/16", "dev", link)
            for one in ("lo", link):
                _ip("-n", name, "link", "set", one, "up")

    def take_up(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()
        for name in (self.here, self.there):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def start(self, place: str, *argv: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            ["ip", "netns", "exec", place, sys.executable, "-W", "ignore", SCRIPT, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.running.append(child)
        return child


def ready(child: subprocess.Popen[str]) -> Any:
    assert child.stdout is not None
    for line in child.stdout:
        word, _, rest = line.partition(" ")
        if word == "READY":
            return json.loads(rest)
    raise AssertionError("it ended without a word")


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True)


@pytest.fixture
def wire() -> Generator[Wire]:
    made = Wire()
    try:
        made.lay()
    except (OSError, subprocess.CalledProcessError) as exc:
        made.take_up()
        pytest.skip(f"no network namespaces can be had on this machine: {exc}")
    try:
        yield made
    finally:
        made.take_up()


def test_one_address_has_its_handshakes_its_rate_and_its_time_and_another_is_let_in(wire: Wire) -> None:
    addr = ready(wire.start(wire.here, "serve", NODE))["addr"]
    port = addr.split("/")[4]
    silent = 200
    crowd = wire.start(wire.there, "knock", NODE, port, str(silent), CROWD)
    assert ready(wire.start(wire.there, "visit", addr, HONEST)) == "in", "beside a crowd of silent connections"
    found = ready(crowd)
    assert found["open"] == 0, f"a handshake has its {HANDSHAKE_TIMEOUT} s"
    assert 1 <= found["dropped"] <= HANDSHAKES_EACH
    assert found["turned away"] == silent - found["dropped"]
    assert ready(wire.start(wire.there, "visit", addr, CROWD)) == "in", "its budget comes back with time"


def test_an_address_that_comes_and_goes_without_end_is_turned_away(wire: Wire) -> None:
    addr = ready(wire.start(wire.here, "serve", NODE))["addr"]
    came = [wire.start(wire.there, "visit", addr, CROWD) for _ in range(2)]
    assert [ready(child) for child in came] == ["in", "in"]
    for _ in range(int(INBOUND_BURST) // HANDSHAKES_EACH + 2):
        wire.start(wire.there, "knock", NODE, addr.split("/")[4], "100", CROWD)
    assert ready(wire.start(wire.there, "visit", addr, CROWD)) == "out"
    assert ready(wire.start(wire.there, "visit", addr, HONEST)) == "in"
