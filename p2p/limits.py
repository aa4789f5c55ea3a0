"""What this process may have: open files, a port of its own, and how deep it may recurse."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import resource
import socket
import sys
import tempfile
from pathlib import Path

from p2p.errors import Misconfigured

WANTED_FILES = 65_536
RECURSION = 1000
_C = ctypes.CDLL(None)
_M_ARENA_MAX = -8  # glibc, malloc.h


def raise_open_files(wanted: int = WANTED_FILES) -> int:
    """Lift the soft limit of open files towards ``wanted``, as far as the hard limit goes; the limit after it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if target > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (ValueError, OSError):
            return soft  # macOS caps it below what it reports
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def bound_recursion() -> None:
    """Set Python's recursion limit back to its default.

    Importing py_ecc, as web3 and eth_keyfile do, lifts it to 100 000. The C stack ends before that: a JSON body of
    nothing but opening brackets would end the process instead of raising RecursionError.
    """
    if sys.getrecursionlimit() > RECURSION:
        sys.setrecursionlimit(RECURSION)


def share_one_heap() -> bool:
    """Have all threads of this process allocate from one heap; whether the C library can.

    glibc gives each thread a heap of its own. What a flood leaves behind in one is of no use to the others, so the
    process keeps the peak of each: nearly twice as much as with one heap. To be called before the first thread starts.
    """
    choose = getattr(_C, "mallopt", None)
    return choose is not None and choose(_M_ARENA_MAX, 1) == 1


def give_memory_back() -> None:
    """Hand what was freed back to the system, where its C library can: after a flood it would be kept for the next.

    What holds itself is freed first, as errors and the calls that they went through do, unless hardly anything was made
    since that was last done: Python would do so after a million objects more.
    """
    if any(gc.get_count()[1:]):
        gc.collect()
    trim = getattr(_C, "malloc_trim", None)
    if trim is not None:
        trim(0)


class PortClaim:
    """A TCP port that no other node of this user holds, until ``release`` or the end of the process.

    py-libp2p listens with SO_REUSEPORT, so that two nodes of one user would share a port in silence, each getting a
    part of the connections. A lock file settles who is first, a plain bind finds everybody else.
    """

    def __init__(self, ip: str, port: int) -> None:
        """Raises Misconfigured when the port is taken, is not ours to use, or the address is not of this machine."""
        self._file: int | None = None
        if port == 0:
            return  # the kernel hands out a free one
        path = Path(tempfile.gettempdir()) / f"pasar-{os.getuid()}-tcp-{port}.lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((ip, port))
        except BlockingIOError as exc:
            self.release()
            raise Misconfigured(f"port {port} on {ip} is in use by another node of yours; choose another one") from exc
        except OSError as exc:
            self.release()
            raise Misconfigured(f"port {port} on {ip} cannot be used: {exc.strerror or exc}") from exc

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
