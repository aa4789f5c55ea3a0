"""Where a node lives on this machine: its data directory, locked, and the meeting point of the local market.

A data directory belongs to one process at a time (an advisory lock that the kernel drops with the process). Without
``--data-dir`` a role takes its first free one: ``<home>/<network>/<role>-1``, ``-2``, and so on. The local market meets
at one port: who gets that port's lock listens there and writes its peer id beside the data directories, the others
read it. Knows no protocol.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from p2p.errors import MalformedMessage, Misconfigured
from p2p.peer import PeerId, parse_peer, peer_text

MAX_INSTANCES = 64
LOCK_NAME = "lock"


@dataclass(slots=True)
class Instance:
    """A data directory that this process holds until ``release`` or its end."""

    path: Path
    number: int
    _lock: IO[str]

    def release(self) -> None:
        self._lock.close()


def claim(home: Path, network: str, role: str, data_dir: Path | None = None) -> Instance:
    """Lock ``data_dir``, or the first free one of ``role``. Raises Misconfigured when it is held or cannot be made."""
    if data_dir is not None:
        lock = _lock_file(_private(data_dir) / LOCK_NAME)
        if lock is None:
            raise Misconfigured(f"data-dir: {data_dir} is in use by a running node; name another one")
        return Instance(data_dir, 1, lock)
    for number in range(1, MAX_INSTANCES + 1):
        path = _private(home / network / f"{role}-{number}")
        lock = _lock_file(path / LOCK_NAME)
        if lock is not None:
            return Instance(path, number, lock)
    raise Misconfigured(f"{MAX_INSTANCES} {role} nodes run here already; name a --data-dir")


def is_held(path: Path) -> bool:
    """Whether a running node holds the data directory ``path``."""
    if not (path / LOCK_NAME).exists():
        return False
    lock = _lock_file(path / LOCK_NAME)
    if lock is None:
        return True
    lock.close()
    return False


@dataclass(slots=True)
class MeetingPoint:
    """The local market's port: held by this process (``lock`` set) or by another one."""

    port: int
    path: Path
    lock: IO[str] | None

    @property
    def ours(self) -> bool:
        return self.lock is not None

    @property
    def addr(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}"

    def announce(self, peer: PeerId) -> None:
        """Tell the other processes of this machine who listens here."""
        temporary = self.path.with_suffix(f".{os.getpid()}")
        with open(temporary, "w", opener=_own) as file:
            file.write(json.dumps({"peer_id": peer_text(peer)}))
        temporary.replace(self.path)

    def holder(self) -> PeerId | None:
        """Who listens here, as its file says; None when there is none or it cannot be read."""
        try:
            with self.path.open() as file:
                return parse_peer(str(json.loads(file.read(1024))["peer_id"]))
        except (OSError, ValueError, KeyError, TypeError, MalformedMessage):
            return None

    def is_alive(self) -> bool:
        """Whether some process holds the port's lock now."""
        if self.ours:
            return True
        lock = _lock_file(self.path.with_suffix(".lock"))
        if lock is None:
            return True
        lock.close()
        return False

    def release(self) -> None:
        if self.lock is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.lock.close()
            self.lock = None


def meet(home: Path, port: int, *, may_hold: bool = True) -> MeetingPoint:
    """The local market's meeting point, taken when nobody holds it and ``may_hold``."""
    base = _private(home) / f"local-{port}"
    lock = _lock_file(base.with_suffix(".lock")) if may_hold else None
    return MeetingPoint(port, base.with_suffix(".json"), lock)


def _private(path: Path) -> Path:
    """``path`` as a directory; what has to be made above it is private too."""
    try:
        for folder in (*(above for above in reversed(path.parents) if not above.exists()), path):
            folder.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would make those with the default mode
    except OSError as exc:
        raise Misconfigured(f"data-dir: cannot use {path}: {exc.strerror}") from exc
    if not os.access(path, os.W_OK | os.X_OK):
        raise Misconfigured(f"data-dir: {path} is not writable")
    return path


def _own(path: str, flags: int) -> int:
    """An opener of files that nobody else reads."""
    return os.open(path, flags, 0o600)


def _lock_file(path: Path) -> IO[str] | None:
    try:
        file = open(path, "a+", opener=_own)  # noqa: SIM115 - open for as long as the lock is held
    except OSError as exc:
        raise Misconfigured(f"data-dir: cannot lock {path}: {exc.strerror}") from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
