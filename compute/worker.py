"""The child process that owns a device: ``python -m compute.worker --help``.

Ignores the signals that reach its whole process group: the node decides when a worker ends. Prints nothing on stdout.
What it does is in ``compute/workerprocess.py``. Knows no price and no buyer.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from compute.capability import Dtype
from compute.catalog import ModelEntry
from compute.digestcache import DigestCache
from compute.modelfolder import read_folder
from compute.offline import go_offline
from compute.opendevice import ORPHAN_S, MakeDevice, Settings, make_device
from compute.safety import WHOLE, Checking
from compute.tracestore import BUDGET, TraceStore
from compute.workerprocess import EXIT_MISCONFIGURED, WorkerProcess
from p2p.errors import Misconfigured

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def arguments() -> argparse.ArgumentParser:
    """The command line. Normally the node writes it."""
    parser = argparse.ArgumentParser(prog="python -m compute.worker", description="Run models for a node.")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on, in a private folder")
    parser.add_argument("--model", type=Path, action="append", required=True, help="model folder; may be repeated")
    parser.add_argument("--traces", type=Path, required=True, help="folder for the latents of finished jobs")
    parser.add_argument("--trace-budget", type=int, default=BUDGET, help="bytes that they may take")
    parser.add_argument("--digests", type=Path, help="cache of file digests")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--dtype", default="auto", choices=["auto", *(d.value for d in Dtype)])
    parser.add_argument("--threads", type=int, default=0, help="threads of one step; 0 leaves the choice to torch")
    parser.add_argument("--memory", type=int, default=0, help="bytes that loaded models may take; 0: a share")
    parser.add_argument("--checker", help="folder of a picture classifier that looks at results")
    parser.add_argument(
        "--unsafe", action="append", default=[], help="label of the checker that counts; may be repeated"
    )
    parser.add_argument("--let-pass", type=int, default=WHOLE // 2, help="the most that is delivered, in millionths")
    parser.add_argument("--orphan-seconds", type=float, default=ORPHAN_S, help="how long to wait for a lost node")
    parser.add_argument("--parent", type=int, default=os.getppid(), help=argparse.SUPPRESS)
    parser.add_argument("--keeper", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None, make: MakeDevice = make_device) -> int:
    """Run until it is time to end; the exit code. ``make`` opens the device."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)  # the node blocked them until they are ignored
    args = arguments().parse_args(argv)
    go_offline()
    settings = Settings(
        args.socket, args.parent, args.device, args.dtype, args.threads, args.memory, args.orphan_seconds, args.keeper,
        Checking(args.checker, tuple(args.unsafe), args.let_pass) if args.checker else None,
    )  # fmt: skip
    try:
        entries = tuple(read_folder(folder, DigestCache(args.digests)) for folder in args.model)
    except Misconfigured as exc:
        print(exc, file=sys.stderr)
        return EXIT_MISCONFIGURED
    return trio.run(_serve, settings, entries, TraceStore(args.traces, args.trace_budget), make)


async def _serve(settings: Settings, entries: tuple[ModelEntry, ...], traces: TraceStore, make: MakeDevice) -> int:
    try:
        return await WorkerProcess(settings, entries, traces, make).run()
    finally:
        settings.socket.unlink(missing_ok=True)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a step may still run in its thread; the interpreter would wait for it
