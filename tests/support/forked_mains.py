"""Many command lines for the price of one import: each runs in a fork of this process, which has only imported.

Reads ``[[argument, ...], ...]`` from the file named first, prints ``[{"code", "stdout", "stderr"}, ...]``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import node


def forked(argv: list[str]) -> dict[str, object]:
    """What ``node.py`` with these arguments says, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        child = os.fork()
        if child == 0:
            for path, number in ((out, 1), (err, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
            code = 99
            try:
                code = node.main(argv)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return {
            "argv": argv,
            "code": os.waitstatus_to_exitcode(status),
            "stdout": out.read_text(),
            "stderr": err.read_text(),
        }


if __name__ == "__main__":
    print(json.dumps([forked(argv) for argv in json.loads(Path(sys.argv[1]).read_text())]))
