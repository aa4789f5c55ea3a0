"""Behind NAT with no open port: orchestrator and client in two homes, gateways outside; idle, cut, and on a LAN.

Real processes in network namespaces; what passes between them is real TCP through real connection tracking.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.nat import IDLE_S, Bed, NoBed, nat_bed
from tests.support.processes import ROOT, Process, eventually

pytestmark = [pytest.mark.prove, pytest.mark.live]

IDLE_GAP_S = 300
GATEWAYS = ("10.77.0.20", "10.77.0.21", "10.77.0.22")
PROBE = f"""
import socket, time
with socket.create_connection(("10.77.0.10", 5000), 5) as s:
    s.sendall(b"x"); assert s.recv(1) == b"x"
    print("READY {{}}", flush=True)
    time.sleep({IDLE_S + 15})
    s.settimeout(10); s.sendall(b"x")
    try: print("alive" if s.recv(1) == b"x" else "ended", flush=True)
    except OSError: print("dead", flush=True)
"""
ECHO = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(64): self.request.sendall(data)
with socketserver.ThreadingTCPServer(("10.77.0.10", 5000), Echo) as server:
    print("READY {}", flush=True)
    server.serve_forever()
"""


class Homes:
    """Processes in the places of a bed; every one of them is ended with it."""

    def __init__(self, bed: Bed, folder: Path) -> None:
        self.bed, self.folder = bed, folder
        self.network = f"nat-{secrets.token_hex(4)}"
        self.processes: list[Process] = []

    def start(self, place: str, name: str, *argv: str, **settings: str) -> Process:
        home = self.folder / name
        home.mkdir(mode=0o700)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PASAR_")}
        ours = {
            "PASAR_HOME": str(home),
            "PASAR_NETWORK": self.network,
            "PASAR_MDNS": "false",
            "XDG_CONFIG_HOME": str(home / "config"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        log = self.folder / f"{name}.log"
        process = Process(argv, {**kept, **ours, **settings}, log, ROOT, self.bed.inside(place))
        self.processes.append(process)
        return process

    def node(self, place: str, name: str, *argv: str) -> Process:
        return self.start(place, name, "node.py", *argv)

    def connections(self, place: str) -> dict[str, set[str]]:
        """Established TCP connections to each address outside, by their ports here."""
        found: dict[str, set[str]] = {}
        for line in self.bed.at(place, "ss", "-Htn", "state", "established").splitlines():
            here, there = line.split()[2:4]
            if not there.startswith("127."):
                found.setdefault(there.rpartition(":")[0], set()).add(here.rpartition(":")[2])
        return found


@contextmanager
def homes(folder: Path, request: pytest.FixtureRequest) -> Generator[Homes]:
    """Skips where namespaces cannot be had."""
    try:
        with nat_bed() as bed:
            failed = request.session.testsfailed
            made = Homes(bed, folder)
            try:
                yield made
            finally:
                if request.session.testsfailed > failed or sys.exc_info()[0] is not None:
                    print("\n".join(process.tail() for process in made.processes))
                for process in reversed(made.processes):
                    process.end()
    except NoBed as exc:
        pytest.skip(f"no NAT can be built on this machine: {exc}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def open_market(h: Homes) -> tuple[Process, Process]:
    """Chain, bootstrap and three gateways outside; an orchestrator in one home and a client in the other."""
    port = free_port()
    chain = h.node("pub", "devchain", "devchain", "--port", str(port)).ready()
    wire = str(h.folder / "rpc")
    h.start("pub", "rpc-out", "tests/support/across.py", "out", str(port), wire).ready()
    h.start("a", "rpc-in", "tests/support/across.py", "in", str(port), wire).ready()
    money = ("--rpc", chain["rpc"], "--broker", chain["broker"])
    boot = h.node("pub", "bootstrap", "--role", "bootstrap", "--listen", "/ip4/10.77.0.10/tcp/4010").ready()
    first = boot["addrs"][0]
    gateways = []
    for number, ip in enumerate(GATEWAYS):
        listen = f"/ip4/{ip}/tcp/{4020 + number}"
        flags = ("--role", "gateway", "--listen", listen, "--bootstrap", first, *money)
        gateways.append(h.node("pub", f"gateway-{number}", *flags))
    for gateway in gateways:
        gateway.ready()
    flags = ("--network", h.network, "--listen", "/ip4/192.168.1.2/tcp/4801", "--bootstrap", first, *money)
    seller = h.start("a", "orchestrator", "-m", "benchmarks.noop_orchestrator", *flags)
    seller.ready()
    client = h.start("b", "client", "-m", "tests.support.waiting_client", PASAR_BOOTSTRAP=first)
    client.ready()
    return seller, client


def bid(client: Process) -> dict[str, Any]:
    client.signal(signal.SIGUSR1)
    said: dict[str, Any] = json.loads(client.line(60))
    return said


def delivered(client: Process, within: float = 90.0) -> dict[str, Any]:
    """The first bid that is delivered; whoever is not known yet is bid for again."""
    answers: list[dict[str, Any]] = []

    def once() -> bool:
        answers.append(bid(client))
        if "delivered" not in answers[-1]:
            time.sleep(1)
        return "delivered" in answers[-1]

    eventually(once, "no bid is delivered", within, lambda: f"{answers[-3:]}\n{client.tail()}")
    return answers[-1]


def test_a_job_after_five_idle_minutes_between_two_nats_that_forget_in_30_seconds(tmp_path, request):
    with homes(tmp_path, request) as h:
        seller, client = open_market(h)
        first = delivered(client)
        eventually(lambda: set(h.connections("a")) >= set(GATEWAYS), "not connected with every gateway", 60)
        seller.said("private")  # the dial-back found out that nobody can reach it
        answers = h.start("pub", "echo", "-c", ECHO)
        answers.ready()
        probe = h.start("a", "probe", "-c", PROBE)
        probe.ready()
        before = {ip: h.connections("a")[ip] for ip in GATEWAYS}
        client_before = h.connections("b")
        time.sleep(IDLE_GAP_S)  # the subject of this test
        assert probe.line(5) == "dead"  # what says nothing does not live through this
        assert {ip: h.connections("a").get(ip) for ip in GATEWAYS} == before
        assert h.connections("b") == client_before
        again = bid(client)
        assert again["was_connected"]
        assert again.get("delivered"), again
        assert again["orchestrator"] == first["orchestrator"]

        # The wire to the orchestrator's home is cut, until both ends have noticed: then everything heals by itself.
        answers.end()  # it holds the probe's dead connection
        h.bed.cut("nat-a")
        eventually(lambda: not h.connections("a"), "the orchestrator did not notice", 60)
        eventually(lambda: "10.77.0.101" not in h.connections("pub"), "a gateway did not notice", 60)
        h.bed.mend("nat-a")
        healed = delivered(client, 150)
        assert healed["orchestrator"] == first["orchestrator"]

        # Its machine gets another address: every connection is dead at once, and all are dialled again.
        h.bed.move("a", "192.168.1.2", "192.168.1.9", "192.168.1.1")
        seller.said("our addresses changed")
        moved = delivered(client, 150)
        assert moved["orchestrator"] == first["orchestrator"]


def test_two_machines_of_a_lan_find_each_other_without_any_bootstrap(tmp_path, request):
    with homes(tmp_path, request) as h:
        for place, ip, network in (
            ("a", "192.168.1.2", "one"),
            ("c", "192.168.1.3", "one"),
            ("c", "192.168.1.3", "two"),
        ):
            h.bed.at(place, "ip", "route", "replace", "224.0.0.0/4", "dev", "eth0")
            listen = f"/ip4/{ip}/tcp/{4010 + len(h.processes)}"
            flags = ("--role", "bootstrap", "--network", network, "--listen", listen, "--mdns")
            h.start(place, f"node-{len(h.processes)}", "node.py", *flags).ready()
        eventually(lambda: h.connections("a").get("192.168.1.3"), "the two of one network did not meet", 60)
        time.sleep(5)  # and nobody of the other one came
        near, far = h.connections("a"), h.connections("c")
        assert len(near["192.168.1.3"]) == len(far["192.168.1.2"]) == 1
