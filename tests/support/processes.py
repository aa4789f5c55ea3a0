"""Real processes of ``node.py`` on a market of their own: own home, own port pair, deadlines, and an end for each.

Everything here is plain and blocking; a test reads like a person at three terminals. What a node said on stderr is in
a file, and its tail is part of every failure that this module raises.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
START_S = 120.0  # a machine that is busy elsewhere is slow to start a Python
TAIL = 25


def free_port_pair() -> int:
    """A port that is free now, with the next one free too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            if port < 65534:
                try:
                    two.bind(("127.0.0.1", port + 1))
                except OSError:
                    continue
                return port


class Process:
    """One child, in a session of its own. ``lines`` of stdout come by a thread; stderr goes to ``log``."""

    def __init__(
        self, argv: Sequence[str], env: dict[str, str], log: Path, cwd: Path, inside: Sequence[str] = ()
    ) -> None:
        """``inside``: what the command line begins with, such as the namespace it runs in."""
        self.name, self.log, self.cwd = log.stem, log, cwd
        self._stderr: IO[bytes] = log.open("ab")
        self._child = subprocess.Popen(
            [*inside, sys.executable, *argv],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        self.stdout: list[str] = []
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, timeout: float = START_S) -> str:
        """The next line of stdout. Fails with the log's tail when there is none in time."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                return self._lines.get(timeout=0.1)
            except Empty:
                if self._child.poll() is not None and self._lines.empty() and not self._reader.is_alive():
                    break
        raise AssertionError(f"{self.name} said nothing more on stdout, exit code {self._child.poll()}\n{self.tail()}")

    def ready(self) -> dict[str, Any]:
        """What the READY line says."""
        word, _, rest = self.line().partition(" ")
        assert word == "READY", f"{self.name} said {word!r} first"
        said: dict[str, Any] = json.loads(rest)
        return said

    def wait(self, timeout: float = START_S) -> int:
        """The exit code, all of stdout read."""
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end\n{self.tail()}") from None
        self._reader.join(10)
        return code

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    @property
    def node(self) -> int:
        """The process id of the node under this supervisor; 0 while there is none. A spare is younger."""
        forks = []
        with suppress(psutil.Error):
            supervisor = psutil.Process(self._child.pid)
            forks = [child for child in supervisor.children() if child.cmdline() == supervisor.cmdline()]
        alive = [child for child in forks if child.status() != psutil.STATUS_ZOMBIE]
        return int(min(alive, key=psutil.Process.create_time).pid) if alive else 0

    def kill(self) -> None:
        """As a power cut: SIGKILL to the supervisor and its node; the node's own children must find out alone."""
        self._child.send_signal(signal.SIGSTOP)  # so that neither learns of the other's end
        self.kill_node(missing=True)
        self._child.kill()
        self.wait(30)

    def kill_node(self, *, missing: bool = False) -> int:
        """SIGKILL to the node alone: its supervisor must find out. Its process id, 0 where it was ``missing``."""
        node = self.node
        assert node or missing, f"{self.name} has no node\n{self.tail()}"
        if node:
            os.kill(node, signal.SIGKILL)
        return node

    def signal(self, number: signal.Signals) -> None:
        """To the process that was started: a node's supervisor."""
        self._child.send_signal(number)

    def end(self) -> None:
        """Whatever state it is in, and its whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait(30)
        self._reader.join(10)
        assert self._child.stdout is not None
        self._child.stdout.close()
        self._stderr.close()

    def errors(self) -> str:
        """Everything on stderr until now."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        lines = [line[:300] for line in self.errors().splitlines() if '"event": "step"' not in line][-TAIL:]
        return "\n".join([f"--- stderr of {self.name}", *lines])

    def said(self, what: str, timeout: float = START_S) -> None:
        """Wait until stderr has ``what``."""
        eventually(lambda: what in self.errors(), f"{self.name} never said {what!r}", timeout, self.tail)

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self.stdout.append(text)
            self._lines.put(text)


@dataclass
class BidOutcome:
    """One ``bid --json`` that has ended: its exit code, the last object on stdout, the progress on stderr."""

    code: int
    report: dict[str, Any]
    news: list[dict[str, Any]]
    process: Process


@dataclass
class LocalMarket:
    """The nodes of one home and one port pair; ``end`` leaves none of them behind."""

    home: Path
    port: int = field(default_factory=free_port_pair)
    processes: list[Process] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def cwd(self) -> Path:
        """Where all of them run, and where pictures land."""
        return self.home.parent

    def start(self, *argv: str, script: str = "node.py", **settings: str) -> Process:
        """A child that runs ``script`` with these arguments; ``settings`` are environment variables."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = Path(next((a for a in argv if not a.startswith("-")), "node")).stem
        log = self.cwd / f"{len(self.processes):02}-{name}.log"
        process = Process([str(ROOT / script), *argv], self.environment(**settings), log, self.cwd)
        self.processes.append(process)
        return process

    def role(self, role: str, *argv: str, **settings: str) -> Process:
        return self.start("--role", role, *argv, **settings)

    def bidding(self, prompt: str = "a red circle", *argv: str) -> Process:
        """A ``bid --json`` that is under way."""
        return self.start("bid", "text-to-image", "--prompt", prompt, "--json", *argv)

    def bid(self, prompt: str = "a red circle", *argv: str, timeout: float = 180.0) -> BidOutcome:
        return outcome(self.bidding(prompt, *argv), timeout)

    def run(self, *argv: str, timeout: float = START_S) -> Process:
        """A command that has ended."""
        process = self.start(*argv)
        process.wait(timeout)
        return process

    def environment(self, **settings: str) -> dict[str, str]:
        """Ours without any setting of the caller's own market, and with the ones of this."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PASAR_") or k == "PASAR_MODELS"}
        ours = {
            "PASAR_HOME": str(self.home),
            "PASAR_LOCAL_PORT": str(self.port),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PASAR_THREADS": "1",
        }
        return {**kept, **ours, **self.settings, **settings}

    def end(self) -> None:
        for process in reversed(self.processes):
            process.end()
        _end_chain(self.port + 1)

    def tails(self) -> str:
        return "\n".join(process.tail() for process in self.processes)


def outcome(process: Process, timeout: float = 180.0) -> BidOutcome:
    """Wait for a ``bid --json`` and read what it said."""
    code = process.wait(timeout)
    assert process.stdout, f"nothing on stdout, exit code {code}\n{process.tail()}"
    return BidOutcome(code, json.loads(process.stdout[-1]), news_of(process), process)


def run_all(market: LocalMarket, lines: list[list[str]]) -> list[dict[str, str]]:
    """Each of these command lines, in a process of its own."""
    todo = market.cwd / "lines.json"
    todo.write_text(json.dumps(lines))
    process = market.start(str(todo), script="tests/support/forked_mains.py")
    assert process.wait() == 0, process.tail()
    found: list[dict[str, str]] = json.loads(process.stdout[-1])
    return found


def news_of(process: Process) -> list[dict[str, Any]]:
    """What a ``bid --json`` has said on its way, as far as the lines are whole."""
    lines = process.errors().split("\n")[:-1]
    return [json.loads(line) for line in lines if line.startswith("{")]


@contextmanager
def local_market(home: Path, request: pytest.FixtureRequest | None = None) -> Generator[LocalMarket]:
    """A market that ends with the block. With ``request`` every log's tail is shown when a test has failed in it."""
    market = LocalMarket(home / "home")
    failed = request.session.testsfailed if request is not None else 0
    try:
        yield market
    finally:
        if request is not None and request.session.testsfailed > failed:
            print(market.tails())
        market.end()


def eventually(
    true: Callable[[], Any], what: str, timeout: float = START_S, more: Callable[[], str] = lambda: ""
) -> Any:
    """The first true answer. Fails with ``what`` when there is none in time."""
    end = time.monotonic() + timeout
    while not (found := true()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}\n{more()}")
        time.sleep(0.05)
    return found


def _end_chain(port: int) -> None:
    """A development chain outlives who started it; here nobody comes back to it."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "ledger.devchain" in line and str(port) in line:
            process.kill()
            process.wait(30)
