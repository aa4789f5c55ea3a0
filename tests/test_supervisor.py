"""A real supervisor over a small process: deaths, hangs, orders, exit codes, and what a service manager hears."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from market.servicenotice import ServiceNotice
from tests.support.processes import ROOT, Process, eventually

pytestmark = pytest.mark.live

QUICK: dict[str, Any] = {"silence_s": 2.0, "mercy_s": 0.5, "pauses_s": [0.0, 0.1], "tries": 3}
Begin = Callable[..., Process]


@pytest.fixture
def begin(tmp_path: Path) -> Generator[Begin]:
    """Starts the small node with these lives."""
    started: list[Process] = []

    def one(*lives: str, rule: dict[str, Any] = QUICK, **settings: str) -> Process:
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        argv = [str(ROOT / "tests/support/small_node.py"), json.dumps(rule), *lives]
        environment |= {"PYTHONPATH": str(ROOT), **settings}
        started.append(Process(argv, environment, tmp_path / f"{len(started)}.log", tmp_path))
        return started[-1]

    yield one
    for process in started:
        process.end()


def served(process: Process, lives: int) -> dict[str, Any]:
    """Wait until the node of this life serves; what it said of itself."""
    process.said(f'"life": {lives},')
    line = next(one for one in process.errors().splitlines() if f'"life": {lives},' in one)
    said: dict[str, Any] = json.loads(line.removeprefix("serving "))
    return said


def test_a_killed_node_is_started_again_and_says_ready_once(begin: Begin) -> None:
    process = begin("serve")
    first = process.ready()
    assert first["pid"] == process.node
    assert process.kill_node() == first["pid"]
    second = served(process, 2)
    assert second["pid"] == process.node != first["pid"]
    assert (first["port"], second["port"]) == (0, 4001)  # where the first one had listened
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert len(process.stdout) == 1
    assert "killed by signal 9" in process.errors()


def test_ready_comes_from_the_first_node_that_is(begin: Begin) -> None:
    process = begin("die 1", "kill", "serve")
    assert process.ready()["life"] == 3
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_spare_waits_and_follows_at_once(begin: Begin) -> None:
    process = begin("serve", rule={**QUICK, "spare_after_s": 0})
    process.ready()
    eventually((process.cwd / "spare").exists, "there is no spare")
    for life in (2, 3):
        (process.cwd / "spare").unlink()
        forks = {child.pid for child in psutil.Process(process._child.pid).children()}
        killed = process.kill_node()
        assert {killed, served(process, life)["pid"]} == forks
        eventually((process.cwd / "spare").exists, "there is no other spare")
    os.killpg(process._child.pid, signal.SIGINT)
    assert process.wait() == 0
    assert len(process.stdout) == 1
    assert "Traceback" not in process.errors()


def test_what_ended_by_a_mistake_or_on_order_is_left_alone(begin: Begin) -> None:
    for lives, code in enumerate((0, 2), 1):
        process = begin(*["die 1"] * (lives - 1), f"die {code}")
        assert process.wait() == code
        assert process.errors() == ""
        assert (process.cwd / "lives").read_text() == "." * lives


def test_one_that_never_comes_up_is_given_up_with_a_clear_line(begin: Begin) -> None:
    process = begin("die 7")
    assert process.wait() == 7
    assert process.errors().splitlines()[-1].startswith("pasar: the node ended with exit code 7; given up after 3")
    assert (process.cwd / "lives").read_text() == "..."


def test_a_death_by_a_signal_is_told_as_shells_tell_it(begin: Begin) -> None:
    assert begin("kill").wait() == 128 + 9


def test_one_that_was_ready_is_never_given_up(begin: Begin) -> None:
    process = begin("soon 1", "soon 1", "soon 1", "soon 1", "serve")
    process.ready()
    assert served(process, 5)
    assert len(process.stdout) == 1


def test_a_hopeless_node_is_not_started_again(begin: Begin) -> None:
    process = begin("hopeless")
    assert process.wait() == 4
    assert (process.cwd / "lives").read_text() == "."


def test_a_stopped_node_is_killed_and_started_again(begin: Begin) -> None:
    process = begin("serve")
    first = process.ready()["pid"]
    os.kill(first, signal.SIGSTOP)
    assert served(process, 2)["pid"] != first
    assert not psutil.pid_exists(first)


def test_a_blocked_loop_is_found_and_the_log_says_where_it_hung(begin: Begin) -> None:
    process = begin("block", "serve")
    process.ready()
    served(process, 2)
    assert "small_node.py" in process.errors()
    assert "in live" in process.errors()
    assert "no sign of life for 2 s" in process.errors()


def test_an_order_drains_and_a_second_one_hurries(begin: Begin) -> None:
    process = begin("serve")
    process.ready()
    (process.cwd / "busy").touch()
    process.signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process._child.wait(0.5)
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert "hurried" in process.errors()


def test_ctrl_c_reaches_the_whole_group_and_counts_once(begin: Begin) -> None:
    process = begin("serve")
    process.ready()
    (process.cwd / "busy").touch()
    os.killpg(process._child.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process._child.wait(0.5)
    assert "hurried" not in process.errors()
    (process.cwd / "busy").unlink()
    assert process.wait() == 0


def test_an_order_to_the_node_alone_ends_both(begin: Begin) -> None:
    process = begin("serve")
    os.kill(process.ready()["pid"], signal.SIGTERM)
    assert process.wait() == 0


def test_a_killed_supervisor_leaves_nothing_behind(begin: Begin) -> None:
    process = begin("serve")
    node = psutil.Process(process.ready()["pid"])
    (process.cwd / "busy").touch()
    process._child.kill()
    process._child.wait()
    with pytest.raises(psutil.TimeoutExpired):
        node.wait(0.5)  # it drains
    (process.cwd / "busy").unlink()
    node.wait(30)


# -- the service manager -------------------------------------------------------------------------------------------


class Manager:
    """The end of a service manager: a datagram socket."""

    def __init__(self, name: str, folder: Path) -> None:
        self.address = name if name.startswith("@") else str(folder / name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else self.address)
        self._socket.settimeout(60)
        self.heard: list[str] = []

    def until(self, line: str, times: int = 1) -> None:
        """Hear it so many times from now on."""
        while times:
            said = self._socket.recv(4096).decode().split("\n")
            self.heard += said
            times -= line in said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["notify.sock", pytest.param("@", marks=pytest.mark.skipif(sys.platform != "linux", reason=""))])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Manager]:
    made = Manager(f"@pasar-test-{os.getpid()}-{time.monotonic_ns()}" if request.param == "@" else "n.sock", tmp_path)
    yield made
    made.close()


def test_a_service_manager_hears_ready_beats_and_the_end(begin: Begin, manager: Manager) -> None:
    process = begin("serve", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="1000000")
    manager.until("READY=1")
    manager.until("WATCHDOG=1", 3)
    process.kill_node()
    manager.until("STATUS=the node was killed by signal 9; starting it again")
    manager.until("READY=1")
    process.signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    assert process.wait() == 0


@pytest.mark.prove
def test_a_loop_that_hangs_sends_no_beat(begin: Begin, manager: Manager) -> None:
    process = begin("block", rule={**QUICK, "silence_s": 600}, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="1000000")
    process.ready()
    manager.until("READY=1")
    manager._socket.settimeout(3)
    with pytest.raises(TimeoutError):
        manager.until("WATCHDOG=1", 5)


def test_notices_are_for_the_process_that_they_name_and_for_no_child(manager: Manager) -> None:
    settings = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    environment = dict(settings)
    notice = ServiceNotice.take(environment)
    assert (notice.address, notice.watchdog_s, environment) == (manager.address, 30.0, {})
    assert ServiceNotice.take({**settings, "WATCHDOG_PID": "1"}).watchdog_s == 0
    notice.send("READY=1", "STATUS=x")
    manager.until("STATUS=x")
    assert manager.heard == ["READY=1", "STATUS=x"]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/at/all", "/" + "x" * 300, "/a\0b"])
def test_where_nobody_listens_nothing_is_lost_but_the_notice(address: str) -> None:
    ServiceNotice.take({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "many"}).send("READY=1")
    ServiceNotice(address).send("READY=1")


def test_the_supervisor_is_small(begin: Begin) -> None:
    """What `python node.py --role` imports before its node starts."""
    heavy = ("libp2p", "torch", "web3", "eth_keyfile", "market.roles", "p2p.host", "compute.workerlink")
    probe = f"import sys, node; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    process = begin("serve")
    process.ready()
    assert eventually(lambda: process.alive, "it died")
