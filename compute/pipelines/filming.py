"""Encodes a clip in a child of its own while its next frames are made; small ones here, where no child would pay.

Frames cross in shared memory: ``SLOTS`` of them, in a file without a name that both processes have open, so that
nothing is left of it whichever of them dies. A child that dies or falls silent ends the clip and not the worker.
Blocks; runs in the device's thread of a worker. Knows no job.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from compute.pipeline import BrokenOutput
from compute.pipelines.framechild import END, LENGTH, SLOTS
from compute.pipelines.h264 import Film, Pixels

LARGE = 384 * 384  # pixels of a frame from which a child pays
MAX_FRAME = 1 << 25  # bytes
MAX_FILM = 1 << 28
PATIENCE_S = 30.0  # for one frame


def filmed(frames: Iterable[Pixels], fps: int, crf: int, large: int = LARGE) -> bytes:
    """The film of frames of one size. Raises BrokenOutput when its encoder fails, and whatever ``frames`` raises."""
    coming = iter(frames)
    first = next(coming, None)
    if first is None or first.shape[0] * first.shape[1] < large:
        film = Film(fps, crf)
        for pixels in chain(() if first is None else (first,), coming):
            film.add(pixels)
        return film.finish()
    with FrameChild(first.shape[1], first.shape[0], fps, crf) as child:
        for pixels in chain((first,), coming):
            child.add(pixels)
        return child.finish()


class FrameChild:
    """The process, its pipes, and the slots shared with it. Invariant: a slot is written only while it is ours."""

    def __init__(self, width: int, height: int, fps: int, crf: int) -> None:
        self._shape = (height, width, 3)
        self._size = height * width * 3
        if self._size > MAX_FRAME:
            raise BrokenOutput(f"a frame of {self._size} bytes")
        self._told = [width, height, fps, crf]
        self._free = list(range(SLOTS))
        self._out = 0  # slots that the child has

    def __enter__(self) -> Self:
        descriptor = _nameless(SLOTS * self._size)
        try:
            self._memory = mmap.mmap(descriptor, SLOTS * self._size)
            root = str(Path(__file__).parent.parent.parent)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "compute.pipelines.framechild", str(descriptor), *map(str, self._told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(descriptor,),
                cwd=root,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            )
        finally:
            os.close(descriptor)  # the mapping and the child keep it
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                continue
        self._process.wait()
        self._memory.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def add(self, pixels: Pixels) -> None:
        """Hand over one frame; waits while all slots are the child's. Raises BrokenOutput."""
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise BrokenOutput("the frames change their size")
        if not self._free:
            self._free.append(self._answer(1)[0])
            self._out -= 1
        slot = self._free.pop()
        at = slot * self._size
        np.frombuffer(self._memory, np.uint8, self._size, at)[:] = pixels.reshape(-1)
        self._say(bytes([slot]))
        self._out += 1

    def finish(self) -> bytes:
        """The file. Raises BrokenOutput."""
        self._say(bytes([END]))
        for _ in range(self._out):
            self._answer(1)
        (size,) = LENGTH.unpack(self._answer(LENGTH.size))
        if size > MAX_FILM:
            raise BrokenOutput(f"a film of {size} bytes")
        return self._answer(size)

    def _say(self, data: bytes) -> None:
        pipe = self._pipe(self._process.stdin)
        try:
            pipe.write(data)
            pipe.flush()
        except OSError as exc:
            raise BrokenOutput("the encoder ended") from exc

    def _answer(self, size: int) -> bytes:
        """So many bytes. The child is ended when they take too long."""
        watch = threading.Timer(PATIENCE_S, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            data = self._pipe(self._process.stdout).read(size)
        finally:
            watch.cancel()
        if len(data) != size:
            raise BrokenOutput("the encoder ended")
        return data

    def _pipe(self, pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def _nameless(size: int) -> int:
    """A descriptor of so many bytes of memory that no name leads to."""
    if hasattr(os, "memfd_create"):  # Linux
        descriptor = os.memfd_create("pasar-frames", os.MFD_CLOEXEC)
    else:
        descriptor, name = tempfile.mkstemp(prefix="pasar-frames-")
        os.unlink(name)
    os.ftruncate(descriptor, size)
    return descriptor
