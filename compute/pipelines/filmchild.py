"""The parent's end of the child that a stranger's film is decoded in: requests, answers, patience.

Whatever happens in there is a refusal with a code. Blocks. Knows no job; started by ``transcode.py`` only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from compute.pipelines import transcodechild
from compute.renditions import MAX_BYTES, Ladder, Segment, Variant
from p2p.errors import Refused

PROGRAM: Final = (sys.executable, "-m", "compute.pipelines.transcodechild")
_MAX_ANSWER: Final = transcodechild.MAX_SEGMENT_BYTES + (1 << 16)


@dataclass
class FilmChild:
    """The process and its pipes. Invariant: once it went wrong it is gone, and every later request is refused."""

    ladder: Ladder
    threads: int
    paid: tuple[int, int] | None = None  # frames, and blocks of each
    begin: int | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        root = Path(__file__).parent.parent.parent
        self._process = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=root,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )
        ladder = {"renditions": [astuple(one) for one in self.ladder.renditions], "segment_ms": self.ladder.segment_ms}
        self._write({**ladder, "threads": self.threads, "paid": self.paid, "begin": self.begin})
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def ask(self, data: bytes, *, live: bool = False, joined: bool = False) -> None:
        """One request; its answers must be read to their end. ``joined``: a file for each rendition, no segments."""
        if len(data) > MAX_BYTES:
            raise Refused("FILM_TOO_LARGE", "bytes of the file", have=len(data), need=MAX_BYTES)
        self._write({"live": live, "joined": joined, "data": data})

    def answers(self, patience: float) -> Iterator[Segment | bytes | float | tuple[Variant, ...]]:
        """Segments or files, and progress, as they come, the variants last.

        Raises Refused, also when the child fell silent.
        """
        while True:
            answer = self._read(patience)
            if "segment" in answer:
                yield Segment(*answer["segment"])
            elif "file" in answer:
                yield answer["file"]
            elif "told" in answer:
                yield answer["told"]
            elif "refused" in answer:
                code, hint, have, need = answer["refused"]
                raise Refused(code, hint, have=have, need=need)
            else:
                yield tuple(Variant(*one) for one in answer["variants"])
                return

    def _write(self, message: dict[str, Any]) -> None:
        try:
            transcodechild.send(self._pipe("stdin"), message)
        except OSError as exc:
            self._end()
            raise Refused("BAD_FILM", "the decoder ended") from exc

    def _read(self, patience: float) -> dict[str, Any]:
        """The next answer. The child is ended when it takes longer than this."""
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self._kill()

        watch = threading.Timer(patience, end)
        watch.daemon = True
        watch.start()
        try:
            answer = transcodechild.receive(self._pipe("stdout"), _MAX_ANSWER)
        except (OSError, ValueError):
            answer = None
        finally:
            watch.cancel()
        if answer is None:
            self._end()
            if ended.is_set():
                raise Refused("TOO_SLOW", "the decoder took too long over a piece of it")
            raise Refused("BAD_FILM", "the decoder did not survive it")
        return answer

    def _pipe(self, name: str) -> IO[bytes]:
        pipe = None if self._process is None else getattr(self._process, name)
        if pipe is None:
            raise Refused("BAD_FILM", "the decoder had to be ended")
        return pipe

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        process.wait()
