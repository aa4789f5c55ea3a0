"""Lifeline: a node's line to whoever started it. It tells that the loop turns, and hears when to stop.

    node -> supervisor    READY=1  WATCHDOG=1  STOPPING=1  HOPELESS=1  PORT=n      one a line
    supervisor -> node    STOP

Without a supervisor the notices go to the service manager, if there is one. Ctrl-C reaches a node twice, from the
terminal and through its supervisor: of both counts the larger one counts. Knows no role.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from market.servicenotice import READY, STOPPING, WATCHDOG, ServiceNotice

if TYPE_CHECKING:
    from trio_typing import TaskStatus

HOPELESS, PORT, STOP = "HOPELESS=1", "PORT=", "STOP"
BEAT_S = 2.0
SAY_S = 1.0  # a supervisor that does not read must not hold up the node
READ = 4096


class Lifeline:
    """``keeper`` is the supervisor's process id, 0 without one; ``port`` where an earlier life of this node listened.

    ``first`` says whether READY belongs on stdout: it was not said yet.
    """

    def __init__(
        self,
        line: socket.socket | None = None,
        notice: ServiceNotice | None = None,
        *,
        beat_s: float = BEAT_S,
        first: bool = True,
        port: int = 0,
    ) -> None:
        self.first, self.port = first, port
        self.keeper = os.getppid() if line is not None else 0
        self._socket, self._notice, self._beat_s = line, notice or ServiceNotice(), beat_s
        if self._notice.watchdog_s:
            self._beat_s = min(beat_s, self._notice.watchdog_s / 2)
        self._line: trio.SocketStream | None = None
        self._turn = trio.Lock()
        self._signals = self._stops = 0
        self._ordered = trio.Event()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: signals are heard, and so is the supervisor."""
        if self._socket is not None:
            self._line = trio.SocketStream(trio.socket.from_stdlib_socket(self._socket))
        async with trio.open_nursery() as nursery:
            await nursery.start(self._hear_signals)
            if self._line is not None:
                nursery.start_soon(self._hear_supervisor, self._line)
            nursery.start_soon(self._beat)
            task_status.started()

    async def ordered(self, times: int) -> None:
        """Wait until somebody wanted for so many times that this node stops."""
        while max(self._signals, self._stops) < times:
            await self._ordered.wait()

    async def ready(self, port: int) -> bool:
        """It serves, and listens on ``port``; whether that is to be said on stdout."""
        await self._say(f"{PORT}{port}", READY)
        first, self.first = self.first, False
        return first

    async def stopping(self) -> None:
        """It takes nothing new."""
        await self._say(STOPPING)

    async def hopeless(self) -> None:
        """It ends, and a restart would make nothing better."""
        await self._say(HOPELESS)

    async def _beat(self) -> None:
        while True:
            await self._say(WATCHDOG)
            await trio.sleep(self._beat_s)

    async def _say(self, *lines: str) -> None:
        if self._line is None:
            self._notice.send(*(line for line in lines if line in (READY, WATCHDOG, STOPPING)))
            return
        with trio.CancelScope(shield=True), trio.move_on_after(SAY_S):
            async with self._turn:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    # The first newline ends what an earlier call may have been cut off in.
                    await self._line.send_all(("\n" + "".join(f"{line}\n" for line in lines)).encode())

    async def _hear_signals(self, *, task_status: TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._signals += 1
                self._wake()

    async def _hear_supervisor(self, line: trio.SocketStream) -> None:
        """Each STOP counts, and so does the end of the line: nobody would start this node again."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await line.receive_some(READ):
                self._stops += data.count(STOP.encode())
                self._wake()
        self._stops = max(1, self._stops)
        self._wake()

    def _wake(self) -> None:
        if self._signals or self._stops:
            self._ordered.set()
            self._ordered = trio.Event()
