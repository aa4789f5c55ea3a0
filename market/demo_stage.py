"""The demo's stage: starts nodes as child processes, reads their READY and their logs, and ends all of them.

A child is ``python node.py ...`` in a session of its own, so that Ctrl-C reaches the demo alone and the demo decides.
Whatever happens, ``clear`` leaves no process behind: first asked, then asked again, then killed with all it started.
Knows no job; what a log line means is the tally's business.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

import market
from p2p.errors import PasarError, Unavailable

NODE = Path(market.__file__).parent.parent / "node.py"
KEPT_SETTINGS = ("PASAR_MODELS", "PASAR_THREADS")  # the others of the caller's are about another market
READY_S = 120.0
ASK_S, ASK_AGAIN_S = 3.0, 3.0
LAST_WORDS_S = 0.5
LISTEN_LOOK_S = 0.05
TAIL = 15
MAX_LINE = 64 * 1024

OnLine = Callable[[str, Mapping[str, Any]], None]


class ChildFailed(PasarError):
    """A child ended, or did not come up. ``tail`` is the end of what it said."""

    def __init__(self, who: str, how: str, tail: list[str]) -> None:
        super().__init__(f"the {who} {how}")
        self.who, self.tail = who, tail


class Child:
    """One process. ``ready`` is what it said in its READY line, once it did."""

    def __init__(self, who: str, process: trio.Process) -> None:
        self.who, self.process = who, process
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.ready: dict[str, Any] = {}
        self.up = trio.Event()

    def signal(self, number: signal.Signals) -> None:
        """To it alone."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill_all(self) -> None:
        """It and whatever it started, which shares its session."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Stage:
    """Every child ever started is in ``children`` until ``clear`` has seen its end."""

    def __init__(self, home: Path, local_port: int, on_line: OnLine) -> None:
        self.home, self._on_line = home, on_line
        self.children: list[Child] = []
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PASAR_")},
            **{key: os.environ[key] for key in KEPT_SETTINGS if key in os.environ},
            "PASAR_HOME": str(home),
            "PASAR_LOCAL_PORT": str(local_port),
        }
        self._clearing = False

    async def start(self, nursery: trio.Nursery, who: str, *arguments: str) -> Child:
        """Start a child. Its end before ``clear`` is a ChildFailed in ``nursery``."""
        command = [sys.executable, str(NODE), *arguments]
        with trio.CancelScope(shield=True):  # a child that was started must not be forgotten
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
            child = Child(who, process)
            self.children.append(child)
        nursery.start_soon(self._watch, child)
        return child

    async def ready(self, child: Child) -> dict[str, Any]:
        """Its READY line. Raises ChildFailed when there is none in time."""
        with trio.move_on_after(READY_S):
            await child.up.wait()
            return child.ready
        raise ChildFailed(child.who, f"is not ready after {READY_S:.0f} s", list(child.tail))

    async def listening(self, port: int) -> str:
        """The URL of a child that answers on ``port``, as soon as it takes connections. Raises Unavailable."""
        with trio.move_on_after(READY_S):
            while True:
                with suppress(OSError):
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    return f"http://127.0.0.1:{port}"
                await trio.sleep(LISTEN_LOOK_S)
        raise Unavailable(f"nobody listens on port {port} after {READY_S:.0f} s")

    async def clear(self) -> None:
        """End every child; returns when none is left."""
        self._clearing = True
        with trio.CancelScope(shield=True):
            for patience in (ASK_S, ASK_AGAIN_S):
                for child in self.children:
                    child.signal(signal.SIGTERM)
                with trio.move_on_after(patience):
                    for child in self.children:
                        await child.process.wait()
                    break
            for child in self.children:
                child.kill_all()
                await child.process.wait()
                for pipe in (child.process.stdout, child.process.stderr):
                    if pipe is not None:
                        await pipe.aclose()

    async def _watch(self, child: Child) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, child)
            nursery.start_soon(self._listen, child)
            code = await child.process.wait()
            nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S  # what it started may hold its pipes
        if not self._clearing:
            raise ChildFailed(child.who, f"ended with {code}", list(child.tail))

    async def _hear(self, child: Child) -> None:
        """Its stdout: one READY line."""
        if child.process.stdout is None:
            return
        async for line in _lines(child.process.stdout):
            if line.startswith("READY "):
                child.ready = json.loads(line.removeprefix("READY "))
                child.up.set()

    async def _listen(self, child: Child) -> None:
        """Its stderr: log lines as JSON, and whatever else comes there."""
        if child.process.stderr is None:
            return
        with (self.home / f"{child.who}.log").open("w") as file:
            async for line in _lines(child.process.stderr):
                child.tail.append(line)
                print(line, file=file, flush=True)
                with suppress(ValueError):
                    said = json.loads(line)
                    if isinstance(said, dict):
                        self._on_line(child.who, said)


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    """Whole lines; one that is longer than it may be is cut."""
    rest = b""
    with suppress(trio.ClosedResourceError):  # ``clear`` closes what a grandchild might hold open
        async for data in stream:
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line[:MAX_LINE].decode(errors="replace")
            rest = rest[:MAX_LINE]


def free_port_pair() -> int:
    """A port on loopback that is free now, and so is the next."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
