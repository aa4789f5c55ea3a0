"""Supervisor: the small process above a node. Starts it, restarts it when it dies or hangs, passes orders on.

    python node.py --role gateway
      supervisor      parsed the command line, holds the data directory; waits
        node          a fork of it: everything else

A fork, so that a node begins where its command line was read, with the same data directory, and without a second start
of Python. What is to be done is decided in ``market/restarting.py``. It blocks, and needs no event loop: there is one
child, one line to it, and a clock. Imports nothing of network, chain or compute.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from market.console import Exit
from market.lifeline import BEAT_S, HOPELESS, PORT, STOP, Lifeline
from market.restarting import (
    Abort,
    Beaten,
    Command,
    Died,
    End,
    Event,
    Hopeless,
    Kill,
    Ordered,
    Readied,
    Restarting,
    Rule,
    Start,
    Stop,
    Ticked,
    Wait,
)
from market.servicenotice import READY, STOPPING, WATCHDOG, ServiceNotice

log = structlog.get_logger("supervisor")

ORDERS = (signal.SIGINT, signal.SIGTERM)
LOOK_S = 1.0
READ = 64 * 1024
MAX_WORD = 64


class Supervisor:
    """``run`` returns in each node, and never in the supervisor itself: that one ends with Exit."""

    def __init__(self, rule: Rule | None = None) -> None:
        self._rule = rule or Rule()
        self._notice = ServiceNotice.take(os.environ)
        self._machine = Restarting(self._rule, time.monotonic())
        self._pid = 0
        self._port = 0
        self._line: socket.socket | None = None
        self._rest = b""
        self._before: dict[int, Any] = {}
        self._woken, self._waker = -1, -1
        beats = [BEAT_S, self._rule.silence_s / 4]
        self._beat_s = min([*beats, self._notice.watchdog_s / 2] if self._notice.watchdog_s else beats)

    def run(self) -> Lifeline:
        """Start a node and come back in it. Raises Exit in the supervisor, when there is no node any more."""
        self._listen_for_signals()
        events: list[Event] = [Ticked()]
        while True:
            for event in events:
                for command in self._machine.handle(event, time.monotonic()):
                    lifeline = self._carry_out(command)
                    if lifeline is not None:
                        return lifeline
            if Beaten() in events or self._machine.in_hand:
                self._notice.send(WATCHDOG)
            events = self._wait()

    # -- what happens ------------------------------------------------------------------------------------------------

    def _wait(self) -> list[Event]:
        """The next events; what the node said comes before its death, and before the clock."""
        patience = min(LOOK_S, self._beat_s, max(0.0, self._machine.wake_at - time.monotonic()))
        sources = [self._woken] if self._line is None else [self._woken, self._line.fileno()]
        ready, _, _ = select.select(sources, [], [], patience)
        orders: list[Event] = []
        if self._woken in ready:
            with suppress(BlockingIOError):
                orders = [Ordered() for number in os.read(self._woken, READ) if number in ORDERS]
        dead = self._reap()
        return [*self._hear(), *orders, *dead, Ticked()]

    def _hear(self) -> list[Event]:
        if self._line is None:
            return []
        over = True
        with suppress(ConnectionError):
            try:
                while data := self._line.recv(READ):
                    self._rest += data
            except BlockingIOError:
                over = False
        if over:
            self._hang_up()
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest[:MAX_WORD]
        return [event for line in lines if (event := self._understand(line.decode(errors="replace"))) is not None]

    def _understand(self, word: str) -> Event | None:
        number = word.removeprefix(PORT)
        if number != word:
            self._port = int(number) if number.isascii() and number.isdecimal() else 0
        elif word == READY:
            self._notice.send(READY, "STATUS=serving")
            return Readied()
        elif word == STOPPING:
            self._notice.send(STOPPING)
        elif word == WATCHDOG:
            return Beaten()
        elif word == HOPELESS:
            return Hopeless()
        return None

    def _reap(self) -> list[Event]:
        if not self._pid:
            return []
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return []
        self._pid = 0
        return [Died(os.waitstatus_to_exitcode(status))]

    # -- what is done ------------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> Lifeline | None:
        match command:
            case Start():
                return self._start()
            case Stop(listens=listens):
                self._tell_to_stop(listens)
            case Abort(why=why):
                log.error("the node hangs; it is ended and started again", reason=why)
                self._send(signal.SIGABRT)
            case Kill(why=why):
                log.error("the node is killed", reason=why)
                self._send(signal.SIGKILL)
            case Wait(how=how, pause_s=pause):
                log.error("the node died; it is started again", how=how, pause_s=pause)
                self._notice.send(f"STATUS=the node {how}; starting it again")
            case End(code=code, why=why):
                self._notice.send(STOPPING)
                if why:
                    print(f"pasar: {why}", file=sys.stderr)
                raise Exit(code)
        return None

    def _start(self) -> Lifeline | None:
        """A node: in it, its lifeline; in the supervisor, None."""
        self._hang_up()
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)  # none may hit the child with our handlers on
        self._pid = os.fork()
        if self._pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            ours.setblocking(False)
            self._line, self._rest = ours, b""
            return None
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for fd in (self._woken, self._waker):
            os.close(fd)
        ours.close()
        return Lifeline(theirs, beat_s=self._beat_s, first=not self._machine.was_ready, port=self._port)

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _tell_to_stop(self, listens: bool) -> None:
        if not listens or self._line is None:
            self._send(signal.SIGTERM)
            return
        with suppress(OSError):
            self._line.send(STOP.encode() + b"\n")

    def _send(self, number: int) -> None:
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def _listen_for_signals(self) -> None:
        """Every signal writes its number to a pipe that ``_wait`` reads. One that is ignored stays ignored."""
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        nothing: Callable[[int, Any], None] = lambda number, frame: None  # noqa: E731
        for number in (*ORDERS, signal.SIGCHLD):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN or number == signal.SIGCHLD:
                self._before[number] = before
                signal.signal(number, nothing)
