"""js-libp2p from npm as a peer: it joins a real gateway, hears a signed offer, checks it alone and finds its seller.

Needs Node and npm, and the npm registry on the first run; without them it is skipped and says why.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

import pytest

from market.protocol import KAD, MESHSUB
from p2p.codec import encode
from p2p.envelope import sign
from p2p.identity import Identity
from p2p.peer import peer_text
from tests.support.javascript import NoJavascript, command, workplace
from tests.support.market_values import offer as an_offer
from tests.support.processes import LocalMarket, local_market

pytestmark = pytest.mark.prove
STEP_S = 120.0


@pytest.fixture(scope="module")
def scripts() -> Path:
    try:
        command()
        return workplace()
    except NoJavascript as exc:
        pytest.skip(str(exc))


@pytest.fixture
def market(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    with local_market(tmp_path, request) as market:
        yield market


class Script:
    """A script of tests/js that says what it did in lines of JSON."""

    def __init__(self, folder: Path, *argv: str) -> None:
        self._child = subprocess.Popen(
            [*command(), *argv], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: Queue[str] = Queue()
        self._stderr: list[str] = []
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._readers = [
            Thread(target=_pump, args=(self._child.stdout, self._lines.put), daemon=True),
            Thread(target=_pump, args=(self._child.stderr, self._stderr.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def did(self, what: str) -> dict[str, Any]:
        """The next thing that it did, which is this."""
        end = time.monotonic() + STEP_S
        while time.monotonic() < end and (self._child.poll() is None or not self._lines.empty()):
            try:
                said: dict[str, Any] = json.loads(self._lines.get(timeout=0.2))
            except Empty:
                continue
            assert said["did"] == what
            return said
        raise AssertionError(f"it never {what}, exit code {self._child.poll()}\n{''.join(self._stderr)[-3000:]}")

    def end(self) -> int:
        try:
            return self._child.wait(30)
        finally:
            self._child.kill()
            self._child.wait(30)
            for reader in self._readers:
                reader.join(10)
            for pipe in (self._child.stdout, self._child.stderr):
                assert pipe is not None
                pipe.close()


def _pump(source: IO[str], sink: Any) -> None:
    for line in source:
        sink(line)


def test_js_libp2p_joins_verifies_an_offer_and_finds_its_seller(market: LocalMarket, scripts: Path) -> None:
    gateway = market.role("gateway").ready()
    (address,) = (addr for addr in gateway["addrs"] if addr.startswith("/ip4/127.0.0.1/"))
    script = Script(scripts, "interop.mjs", address, "pasar/main/offers/text-to-image")
    try:
        connected = script.did("connected")
        assert connected["peer"] == gateway["peer_id"]
        assert (connected["muxer"], connected["encryption"]) == ("/yamux/1.0.0", "/noise")
        assert {KAD, MESHSUB, "/ipfs/ping/1.0.0"} <= set(script.did("identified")["protocols"])
        assert script.did("pinged")["ms"] >= 0
        assert script.did("subscribed")["mesh"] == [gateway["peer_id"]]
        seller = market.role("orchestrator").ready()
        offer = script.did("verified")
        assert (offer["kind"], offer["version"], offer["network"]) == ("offer", 2, "main")
        assert offer["seller"] == offer["author"] == seller["peer_id"]
        assert offer["models"]
        assert int(offer["price"]) > 0
        found = script.did("found")
        assert found["peer"] == seller["peer_id"]
        assert found["addrs"]
    finally:
        code = script.end()
    assert code == 0


def test_what_is_not_signed_as_it_says_is_refused_in_js_too(scripts: Path, tmp_path: Path) -> None:
    who, other = (Identity.fresh(development=True) for _ in range(2))
    signed = sign(an_offer(who.peer), who)
    bad = type(signed)(signed.payload, signed.signature[:-1] + b"\x1d")
    stolen = type(signed)(sign(an_offer(other.peer), other).payload, signed.signature)
    files = {name: encode(value) for name, value in (("good", signed), ("bad", bad), ("stolen", stolen))}
    files["long"] = files["good"] + b"\0"
    files["cut"] = files["good"][:-1]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    program = (
        "import { readFileSync } from 'fs'; import { open } from './envelope.mjs';"
        "for (const path of process.argv.slice(1)) { let did = 'refused';"
        "try { did = Buffer.from(open(new Uint8Array(readFileSync(path))).author).toString('hex') } catch {}"
        "console.log(JSON.stringify({ did })) }"
    )
    said = subprocess.run(
        [*command(), "--input-type=module", "--eval", program, *(str(tmp_path / name) for name in files)],
        cwd=scripts,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    authors = dict(zip(files, (json.loads(line)["did"] for line in said.stdout.splitlines()), strict=True))
    assert authors["good"] == who.peer.hex()
    assert authors["bad"] == authors["long"] == authors["cut"] == "refused"
    assert authors["stolen"] not in (who.peer.hex(), other.peer.hex()), "an offer under another's signature has neither"
    assert peer_text(who.peer).startswith("16Uiu2HA")
