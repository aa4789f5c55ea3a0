"""Children of a benchmark that are asked in lines and answer in lines, and end with it. Knows no benchmark."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import trio

from benchmarks.report import NotRun
from benchmarks.stage import ROOT, end


class Child:
    """One process. What it says first is READY and an object; after that, one object for each that it was told."""

    def __init__(self, process: trio.Process) -> None:
        self.process, self._held = process, b""

    async def ready(self) -> dict[str, Any]:
        """What the READY line says."""
        word, _, rest = (await self._line()).partition(b" ")
        if word != b"READY":
            raise NotRun(f"a child said {word!r} first")
        said: dict[str, Any] = json.loads(rest)
        return said

    async def ask(self, asked: Any) -> Any:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(asked).encode() + b"\n")
        return json.loads(await self._line())

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        while b"\n" not in self._held:
            piece = await self.process.stdout.receive_some()
            if not piece:
                raise NotRun("a child ended early")
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return line


@asynccontextmanager
async def children(
    commands: Sequence[Sequence[str]], cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> AsyncGenerator[list[Child]]:
    """Start all of them; the end of the block is theirs."""
    started = list[Child]()
    try:
        for command in commands:
            process = await trio.lowlevel.open_process(
                list(command), stdin=PIPE, stdout=PIPE, cwd=cwd, env=env, start_new_session=True
            )
            started.append(Child(process))
        yield started
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for child in started:
                    nursery.start_soon(end, child.process)
