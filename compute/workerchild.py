"""The worker's process as the node sees it: where its socket is, starting it, finding one that still runs, ending it.

Shell. Knows no job.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from compute.capability import Dtype
from compute.opendevice import ORPHAN_S
from compute.otherprocess import kill, look_up, runs
from compute.safety import Checking
from compute.tracestore import BUDGET
from compute.verdict import LEAST_STEP_S, Patience
from p2p.errors import Misconfigured

MAX_SOCKET_PATH = 100  # bytes; sun_path holds 104 on macOS, 108 on Linux
_SHARED = Path("/tmp")
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.02
_DEATH_S = 10.0
_ROOT = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker: the models it serves from local folders, its device, its limits. ``folder`` is private to the node.

    ``keeper`` is the process that would restart the node: while it lives, the worker waits even when it has no job.
    ``step_s`` is how long a step may take that nobody has measured, ``least_step_s`` how long any may,
    ``load_s`` how long a model may load; then the worker is killed.
    ``memory`` bounds what loaded models take (0: a share of what is free), ``resident`` the whole process (0: no
    bound), both in bytes. ``digest_store`` is the file in which the digests of weights are remembered, to be
    shared with other nodes; else one of its own.
    """

    folder: Path
    models: tuple[Path, ...]
    name: str = "worker"
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    memory: int = 0
    resident: int = 0
    digest_store: Path | None = None
    trace_budget: int = BUDGET
    checking: Checking | None = None
    orphan_s: float = ORPHAN_S
    keeper: int = 0
    step_s: float = 120.0
    least_step_s: float = LEAST_STEP_S
    load_s: float = 900.0
    ping_s: float = 2.0
    program: tuple[str, ...] = (sys.executable, "-m", "compute.worker")

    @property
    def patience(self) -> Patience:
        """What the worker may take before it is killed."""
        return Patience(self.step_s, self.load_s, self.resident, least_step_s=self.least_step_s)

    @property
    def digests(self) -> Path:
        """The cache of file digests, shared by node and workers."""
        return self.digest_store or self.folder / "digests.json"

    @property
    def offered_dtype(self) -> Dtype:
        """What is said before the worker has seen its device."""
        return Dtype.FP32 if self.dtype == "auto" else Dtype(self.dtype)

    def command(self, socket: Path) -> list[str]:
        """The command line of the worker."""
        line = [*self.program, "--socket", str(socket), "--parent", str(os.getpid())]
        line += ["--keeper", str(self.keeper)]
        line += [word for folder in self.models for word in ("--model", str(folder))]
        line += ["--traces", str(self.folder / "traces" / self.name), "--trace-budget", str(self.trace_budget)]
        line += ["--digests", str(self.digests), "--device", self.device, "--dtype", self.dtype]
        line += ["--threads", str(self.threads), "--memory", str(self.memory)]
        if self.checking is not None:
            line += ["--checker", self.checking.checker, "--let-pass", str(self.checking.most)]
            line += [word for label in self.checking.unsafe for word in ("--unsafe", label)]
        return [*line, "--orphan-seconds", str(self.orphan_s)]


def socket_path(folder: Path, name: str) -> Path:
    """Where a worker listens: in ``folder`` when that is short enough, else under a private name in /tmp.

    The same folder gives the same path, so that a restarted node finds its worker. Raises Misconfigured when the
    private folder belongs to somebody else.
    """
    wanted = folder / f"{name}.sock"
    if len(os.fsencode(wanted.absolute())) > MAX_SOCKET_PATH:
        tag = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
        wanted = _SHARED / f"pasar-{os.getuid()}-{tag}" / f"{name[:32]}.sock"
    wanted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = wanted.parent.stat(follow_symlinks=False)
    if made.st_uid != os.getuid() or not stat.S_ISDIR(made.st_mode):
        raise Misconfigured(f"{wanted.parent} belongs to somebody else; remove it or choose another data directory")
    wanted.parent.chmod(0o700)
    return wanted


def remove_socket(path: Path) -> None:
    """Take away what is left of a socket, and its folder when that was made for it alone, in /tmp, and is empty."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    if path.parent.parent == _SHARED:
        with suppress(OSError):
            path.parent.rmdir()


class Child:
    """A worker's process, started here or found running. A found one leaves no exit code."""

    def __init__(self, process: subprocess.Popen[bytes] | None, pid: int) -> None:
        self.pid = pid
        self._started = process
        self._seen = look_up(pid)

    @classmethod
    def found(cls, pid: int) -> Child:
        """A worker that an earlier node started."""
        return cls(None, pid)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        if self._started is not None:
            return self._started.poll() is None
        return runs(self._seen)

    @property
    def exit_code(self) -> int | None:
        """How it ended, if that can be known."""
        return self._started.poll() if self._started else None

    async def wait(self) -> None:
        """Until it has ended."""
        while self.alive:  # noqa: ASYNC110 - a found process is nobody's child here, there is nothing to wait on
            await trio.sleep(_POLL_S)

    async def kill(self) -> None:
        """End it now, whatever it does. Gives up on one that the kernel cannot end."""
        if self.alive and self._seen is not None:
            kill(self._seen)
        with trio.CancelScope(shield=True), trio.move_on_after(_DEATH_S):
            await self.wait()


async def spawn(command: Sequence[str], socket: Path, threads: int) -> Child:
    """Start a worker that will listen on ``socket``. The group's signals are blocked in it until it ignores them."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (_ROOT, environment.get("PYTHONPATH", ""))))
    environment["OMP_WAIT_POLICY"] = "passive"  # the cores are shared with the node
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)

    def start() -> subprocess.Popen[bytes]:
        socket.unlink(missing_ok=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, close_fds=True
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    process = await _shielded(start)
    return Child(process, process.pid)


async def connect(path: Path, child: Child | None, patience_s: float) -> trio.SocketStream | None:
    """A connection to the worker's socket; None when nobody answers in time, or when ``child`` ended."""
    with trio.move_on_after(patience_s):
        while True:
            try:
                return await trio.open_unix_socket(str(path))
            except OSError:
                if child is None or not child.alive:
                    return None
            await trio.sleep(_POLL_S)
    return None


async def _shielded(work: Callable[[], Any]) -> Any:
    with trio.CancelScope(shield=True):  # a child that is started must not be forgotten
        return await trio.to_thread.run_sync(work)
