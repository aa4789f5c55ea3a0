"""``node.py`` whose worker is a real process with a pretended device: see ``pretend_worker.py`` for its prompts.

Its supervisor has a spare soon, and says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import compute.workerchild
import node
from market.supervisor import Supervisor

PROGRAM = (sys.executable, str(Path(__file__).parent / "pretend_worker.py"))


class Pretending(compute.workerchild.WorkerConfig):
    """A worker's configuration, but for the program."""

    def command(self, socket: Path) -> list[str]:
        """The command line of the worker."""
        usual = super().command(socket)
        return [*PROGRAM, *usual[len(self.program) :]]


class Watchful(Supervisor):
    """A supervisor in a hurry."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        def told() -> None:
            prepare()
            print("a spare stands by", file=sys.stderr, flush=True)

        super().__init__(told, spare_after_s=0.0)


if __name__ == "__main__":
    compute.workerchild.WorkerConfig = Pretending  # type: ignore[misc]
    node.Supervisor = Watchful  # type: ignore[misc, assignment]
    sys.exit(node.main())
