"""A fork of this process, and the line to it: how the supervisor comes by its nodes.

    fork() -> Forked in the parent, a socket in the child

A spare is forked ahead of need: it imports what a node imports and waits, so that a node which dies is followed within
a moment, also on a busy machine. It ignores orders, and ends when the line does. Knows no node.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

ORDERS = (signal.SIGINT, signal.SIGTERM)
READ = 64 * 1024
MAX_WORD = 64
MAX_GO = 32


class Forked:
    """The parent's view. The line is None once it has ended; a process that was reaped is sent no signal."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self.line: socket.socket | None = line
        self._rest = b""
        line.setblocking(False)

    def say(self, word: str) -> bool:
        """Whether it was said."""
        with suppress(OSError):
            if self.line is not None:
                self.line.send(word.encode() + b"\n")
                return True
        return False

    def words(self) -> list[str]:
        """What it said since the last time, line by line."""
        if self.line is None:
            return []
        over = True
        with suppress(ConnectionError):
            try:
                while data := self.line.recv(READ):
                    self._rest += data
            except BlockingIOError:
                over = False
        if over:
            self.hang_up()
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest[:MAX_WORD]
        return [line.decode(errors="replace") for line in lines]

    def reap(self) -> int | None:
        """Its exit code, or minus the signal that killed it, once it has ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG) if self.pid else (0, 0)
        if not pid:
            return None
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def send(self, number: int) -> None:
        """A signal."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def hang_up(self) -> None:
        """End the line."""
        if self.line is not None:
            self.line.close()
            self.line = None


def fork(handlers: Mapping[int, Any], close: tuple[int, ...]) -> Forked | socket.socket:
    """Fork. The child has ``handlers`` for its signals, ``close`` closed, and its end of the line."""
    ours, theirs = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)  # none may hit the child with our handlers on
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        return Forked(pid, ours)
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for fd in close:
        os.close(fd)
    ours.close()
    return theirs


def stand_by(line: socket.socket, prepare: Callable[[], object], handlers: Mapping[int, Any]) -> str:
    """In a spare: get ready and wait to be needed; what was said then. Never comes back where nobody needs it."""
    for number in ORDERS:
        signal.signal(number, signal.SIG_IGN)
    prepare()
    word = b""
    while not word.endswith(b"\n") and len(word) < MAX_GO:  # byte by byte: what follows is not for us
        byte = line.recv(1)
        if not byte:
            os._exit(0)
        word += byte
    for number in ORDERS:
        signal.signal(number, handlers.get(number, signal.SIG_IGN))
    return word.decode().strip()
