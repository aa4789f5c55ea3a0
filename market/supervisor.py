"""Supervisor: the small process above a node. Starts it, restarts it when it dies or hangs, passes orders on.

    python node.py --role gateway
      supervisor      parsed the command line, holds the data directory; waits
        node          a fork of it: everything else
        spare         the next node, with its libraries imported; does nothing

Forks, so that a node begins where its command line was read, with the same data directory, and without a second start
of Python. What is to be done is decided in ``market/restarting.py``. It blocks, and needs no event loop: there is one
node, one line to it, and a clock. Imports nothing of network, chain or compute.
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
from market.forked import ORDERS, READ, Forked, fork, stand_by
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
    State,
    Stop,
    Ticked,
    Wait,
)
from market.servicenotice import READY, STOPPING, WATCHDOG, ServiceNotice

log = structlog.get_logger("supervisor")

LOOK_S = 1.0
SPARE_AFTER_S = 30.0  # a market that comes up has better things to do than to prepare for deaths


class Supervisor:
    """``run`` returns in each node, and never in the supervisor itself: that one ends with Exit.

    ``prepare`` imports what a node needs; it is called in the spare only.
    """

    def __init__(
        self, prepare: Callable[[], object], rule: Rule | None = None, *, spare_after_s: float = SPARE_AFTER_S
    ) -> None:
        self._prepare, self._rule, self._spare_after_s = prepare, rule or Rule(), spare_after_s
        self._notice = ServiceNotice.take(os.environ)
        self._machine = Restarting(self._rule, time.monotonic())
        self._node: Forked | None = None
        self._spare: Forked | None = None
        self._spare_at = 0.0  # when one is due; 0 for not now
        self._port = 0
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
            if (lifeline := self._keep_spare()) is not None:
                return lifeline
            events = self._wait()

    # -- what happens ------------------------------------------------------------------------------------------------

    def _wait(self) -> list[Event]:
        """The next events; what the node said comes before its death, and before the clock."""
        patience = min(LOOK_S, self._beat_s, max(0.0, self._machine.wake_at - time.monotonic()))
        line = self._node.line if self._node else None
        sources = [self._woken] if line is None else [self._woken, line.fileno()]
        ready, _, _ = select.select(sources, [], [], patience)
        orders: list[Event] = []
        if self._woken in ready:
            with suppress(BlockingIOError):
                orders = [Ordered() for number in os.read(self._woken, READ) if number in ORDERS]
        if self._node is None:
            return [*orders, Ticked()]
        code = self._node.reap()  # before its last words are read: none can follow
        said = [event for word in self._node.words() if (event := self._understand(word)) is not None]
        if code is None:
            return [*said, *orders, Ticked()]
        self._node.hang_up()
        self._node, self._spare_at = None, 0.0
        return [*said, *orders, Died(code), Ticked()]

    def _understand(self, word: str) -> Event | None:
        number = word.removeprefix(PORT)
        if number != word:
            self._port = int(number) if number.isascii() and number.isdecimal() else 0
        elif word == READY:
            self._notice.send(READY, "STATUS=serving")
            self._spare_at = time.monotonic() + self._spare_after_s
            return Readied()
        elif word == STOPPING:
            self._notice.send(STOPPING)
        elif word == WATCHDOG:
            return Beaten()
        elif word == HOPELESS:
            return Hopeless()
        return None

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
                if self._spare is not None:
                    self._spare.send(signal.SIGKILL)  # it may be importing, and would hold our output open
                if why:
                    print(f"pasar: {why}", file=sys.stderr)
                raise Exit(code)
        return None

    def _start(self) -> Lifeline | None:
        """A node, the spare one where there is one. In it, its lifeline; in the supervisor, None."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.reap() is None and spare.say(f"{int(not self._machine.was_ready)} {self._port}"):
            self._node = spare
            return None
        forked = fork(self._before, (self._woken, self._waker))
        if isinstance(forked, Forked):
            self._node = forked
            return None
        return self._lifeline(forked, not self._machine.was_ready, self._port)

    def _keep_spare(self) -> Lifeline | None:
        """Have a spare when one is due. In it, once it is needed, its lifeline."""
        if not self._spare_at or time.monotonic() < self._spare_at or self._spare is not None:
            return None
        if self._machine.state is not State.RUNNING or self._machine.orders:
            return None
        self._spare_at = 0.0
        forked = fork(self._before, (self._woken, self._waker))
        if isinstance(forked, Forked):
            self._spare = forked
            return None
        if self._node is not None:
            self._node.hang_up()  # the copy that the fork brought along
        first, _, port = stand_by(forked, self._prepare, self._before).partition(" ")
        return self._lifeline(forked, first == "1", int(port or 0))

    def _lifeline(self, line: socket.socket, first: bool, port: int) -> Lifeline:
        return Lifeline(line, beat_s=self._beat_s, first=first, port=port)

    def _tell_to_stop(self, listens: bool) -> None:
        if not listens:
            self._send(signal.SIGTERM)
        elif self._node is not None:
            self._node.say(STOP)  # one that does not hear it is ending: Ctrl-C reached it first

    def _send(self, number: int) -> None:
        if self._node is not None:
            self._node.send(number)

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
